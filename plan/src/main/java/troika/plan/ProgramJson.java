package troika.plan;

import java.io.IOException;
import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.RecordComponent;
import java.lang.reflect.Type;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.json.JsonMapper;
import troika.graph.Op;
import troika.tensor.Shape;
import troika.tensor.UserException;

/// Programs as JSON and back. A program is records of numbers, names and lists of these, so one walk over
/// record components serves them all; an op is written with its name under "op".
public final class ProgramJson {
    private static final JsonMapper MAPPER = JsonMapper.builder().build();
    private static final Map<String, Class<?>> OPS = Arrays.stream(Op.class.getPermittedSubclasses())
            .flatMap(type -> type.isRecord() ? Stream.of(type) : Arrays.stream(type.getPermittedSubclasses()))
            .collect(Collectors.toMap(Class::getSimpleName, type -> type));

    private ProgramJson() {}

    /// Writes the programs of a run by their names.
    public static void write(Path file, List<StepProgram> programs) throws IOException {
        Map<String, Object> all = new LinkedHashMap<>();
        for (StepProgram program : programs) {
            all.put(program.name(), toTree(program));
        }
        Files.writeString(file, MAPPER.writeValueAsString(all));
    }

    /// Reads the programs of a file that [#write] wrote. Throws [UserException] where it is not such a
    /// file.
    public static List<StepProgram> read(Path file) throws IOException {
        try {
            List<StepProgram> programs = new ArrayList<>();
            Map<?, ?> all = MAPPER.readValue(Files.readString(file), Map.class);
            for (Object program : all.values()) {
                programs.add((StepProgram) fromTree(program, StepProgram.class));
            }
            return programs;
        } catch (JacksonException | IllegalArgumentException | ArithmeticException | ClassCastException e) {
            throw new UserException(
                    "The file " + file + " is no step program (" + firstLine(e) + "): write it anew by --dump-program.",
                    e);
        }
    }

    private static Object toTree(Object value) {
        return switch (value) {
            case Shape shape -> Arrays.stream(shape.sizes()).boxed().toList();
            case List<?> list -> list.stream().map(ProgramJson::toTree).toList();
            case Record record -> {
                Map<String, Object> tree = new LinkedHashMap<>();
                if (record instanceof Op) {
                    tree.put("op", record.getClass().getSimpleName());
                }
                for (RecordComponent component : record.getClass().getRecordComponents()) {
                    tree.put(component.getName(), toTree(component(record, component)));
                }
                yield tree;
            }
            case Enum<?> constant -> constant.name();
            default -> value;
        };
    }

    private static Object component(Record record, RecordComponent component) {
        try {
            return component.getAccessor().invoke(record);
        } catch (IllegalAccessException | InvocationTargetException e) {
            throw new IllegalStateException(record + " cannot be read", e);
        }
    }

    private static Object fromTree(@Nullable Object tree, Type type) {
        if (type instanceof ParameterizedType list) {
            Type element = list.getActualTypeArguments()[0];
            return ((List<?>) need(tree, type))
                    .stream().map(item -> fromTree(item, element)).toList();
        }
        Class<?> target = (Class<?>) type;
        if (target == Shape.class) {
            return new Shape(((List<?>) need(tree, type))
                    .stream().mapToLong(ProgramJson::integer).toArray());
        }
        if (target == Op.class) {
            Map<?, ?> fields = (Map<?, ?>) need(tree, type);
            Class<?> op = OPS.get(String.valueOf(fields.get("op")));
            if (op == null) {
                throw new IllegalArgumentException("unknown op " + fields.get("op"));
            }
            return record(fields, op);
        }
        if (target.isRecord()) {
            return record((Map<?, ?>) need(tree, type), target);
        }
        if (target.isEnum()) {
            return Arrays.stream(target.getEnumConstants())
                    .filter(constant -> constant.toString().equals(tree))
                    .findFirst()
                    .orElseThrow(() -> new IllegalArgumentException("unknown " + target.getSimpleName() + " " + tree));
        }
        Object value = need(tree, type);
        if (target == int.class || target == Integer.class) {
            return Math.toIntExact(integer(value));
        }
        if (target == long.class) {
            return integer(value);
        }
        if (target == float.class) {
            return ((Number) value).floatValue();
        }
        if (value.getClass() != (target == boolean.class ? Boolean.class : target)) {
            throw new IllegalArgumentException(value + " is no " + target.getSimpleName());
        }
        return value;
    }

    private static Object record(Map<?, ?> fields, Class<?> type) {
        RecordComponent[] components = type.getRecordComponents();
        Object[] values = new Object[components.length];
        for (int i = 0; i < values.length; i++) {
            values[i] = fromTree(fields.get(components[i].getName()), components[i].getGenericType());
        }
        try {
            Constructor<?> constructor = type.getDeclaredConstructor(
                    Arrays.stream(components).map(RecordComponent::getType).toArray(Class<?>[]::new));
            return constructor.newInstance(values);
        } catch (InvocationTargetException e) {
            Throwable cause = e.getCause();
            throw new IllegalArgumentException(cause == null ? type.getSimpleName() : cause.getMessage(), e);
        } catch (ReflectiveOperationException e) {
            throw new IllegalArgumentException("no " + type.getSimpleName() + " can be made", e);
        }
    }

    private static long integer(@Nullable Object value) {
        if (value instanceof Integer || value instanceof Long) {
            return ((Number) value).longValue();
        }
        throw new IllegalArgumentException(value + " is no integer");
    }

    private static String firstLine(Exception e) {
        return String.valueOf(e.getMessage()).lines().findFirst().orElse("");
    }

    private static Object need(@Nullable Object value, Type type) {
        if (value == null) {
            throw new IllegalArgumentException("a " + type.getTypeName() + " is missing");
        }
        return value;
    }
}
