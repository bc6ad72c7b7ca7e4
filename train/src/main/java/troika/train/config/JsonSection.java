package troika.train.config;

import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.TreeSet;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;
import tools.jackson.databind.JsonNode;
import troika.tensor.UserException;

/// One object of a JSON file, read key by key. What is asked for is what is known: [#done] refuses all
/// other keys.
final class JsonSection {
    private static final String AUTO = "auto";

    private final String file;
    private final String path;
    private final @Nullable JsonNode node;
    private final TreeSet<String> known = new TreeSet<>();

    private JsonSection(String file, String path, @Nullable JsonNode node) {
        this.file = file;
        this.path = path;
        this.node = node;
    }

    /// The whole file.
    static JsonSection root(String file, JsonNode node) {
        if (!node.isObject()) {
            throw new UserException(
                    file + " must hold one JSON object, and holds " + shown(node) + ": write the keys in { }.");
        }
        return new JsonSection(file, "", node);
    }

    /// Reads the object at `key`; where it is absent, `read` sees an empty one and so every default.
    <T> T section(String key, Function<JsonSection, T> read) {
        return read.apply(child(key));
    }

    /// As [#section], but null where the key is absent.
    <T> @Nullable T optionalSection(String key, Function<JsonSection, T> read) {
        JsonSection child = child(key);
        return child.node == null ? null : read.apply(child);
    }

    private JsonSection child(String key) {
        JsonNode value = find(key);
        if (value != null && !value.isObject()) {
            throw wrong(key, "an object", value);
        }
        return new JsonSection(file, pathOf(key), value);
    }

    boolean bool(String key, boolean absent) {
        JsonNode value = find(key);
        if (value == null) {
            return absent;
        }
        if (!value.isBoolean()) {
            throw wrong(key, "true or false", value);
        }
        return value.booleanValue();
    }

    /// True, false, or null where the key is absent, null or "auto".
    @Nullable
    Boolean autoBool(String key) {
        JsonNode value = findUnlessAuto(key);
        if (value == null) {
            return null;
        }
        if (!value.isBoolean()) {
            throw wrong(key, "true, false or \"auto\"", value);
        }
        return value.booleanValue();
    }

    long integer(String key, long absent, long least) {
        JsonNode value = find(key);
        return value == null ? absent : whole(key, value, least, "");
    }

    /// A whole number, or null where the key is absent or null.
    @Nullable
    Long optionalInteger(String key, long least) {
        JsonNode value = find(key);
        return value == null || value.isNull() ? null : (Long) whole(key, value, least, "");
    }

    /// A whole number, or null where the key is absent, null or "auto".
    @Nullable
    Long autoInteger(String key, long least) {
        JsonNode value = findUnlessAuto(key);
        return value == null ? null : (Long) whole(key, value, least, " or \"auto\"");
    }

    private long whole(String key, JsonNode value, long least, String orElse) {
        String expected = "a whole number" + (least == Long.MIN_VALUE ? "" : " of at least " + least) + orElse;
        if (!value.isNumber()) {
            throw wrong(key, expected, value);
        }
        // DeepSpeed's files write 5e8 for integers. The magnitude is checked first: 1e999999999 must not
        // be expanded.
        double magnitude = Math.abs(value.doubleValue());
        if (!(magnitude < 9e18)) {
            throw wrong(key, expected, value);
        }
        BigDecimal number = value.decimalValue();
        if (number.scale() > 400 || number.stripTrailingZeros().scale() > 0) {
            throw wrong(key, expected, value);
        }
        long whole = number.longValueExact();
        if (whole < least) {
            throw wrong(key, expected, value);
        }
        return whole;
    }

    double number(String key, double absent, double least) {
        JsonNode value = find(key);
        return value == null ? absent : finite(key, value, least, "");
    }

    /// A number, or null where the key is absent, null or "auto".
    @Nullable
    Double autoNumber(String key, double least) {
        JsonNode value = findUnlessAuto(key);
        return value == null ? null : (Double) finite(key, value, least, " or \"auto\"");
    }

    private double finite(String key, JsonNode value, double least, String orElse) {
        double number = value.isNumber() ? value.doubleValue() : Double.NaN;
        if (!(number >= least) || Double.isInfinite(number)) {
            throw wrong(key, "a number of at least " + plain(least) + orElse, value);
        }
        return number;
    }

    /// Two numbers, or null where the key is absent, null or "auto".
    double @Nullable [] autoPair(String key) {
        JsonNode value = findUnlessAuto(key);
        if (value == null) {
            return null;
        }
        if (!value.isArray() || value.size() != 2) {
            throw wrong(key, "a list of two numbers or \"auto\"", value);
        }
        return new double[] {finite(key, value.get(0), 0, ""), finite(key, value.get(1), 0, "")};
    }

    List<String> strings(String key) {
        JsonNode value = find(key);
        if (value == null) {
            return List.of();
        }
        List<String> strings = new ArrayList<>();
        boolean right = value.isArray();
        for (JsonNode element : value) {
            right &= element.isString();
            strings.add(element.isString() ? element.stringValue() : "");
        }
        if (!right) {
            throw wrong(key, "a list of strings", value);
        }
        return List.copyOf(strings);
    }

    /// A string, or null where the key is absent or null.
    @Nullable
    String optionalString(String key) {
        JsonNode value = find(key);
        if (value == null || value.isNull()) {
            return null;
        }
        if (!value.isString()) {
            throw wrong(key, "a string", value);
        }
        return value.stringValue();
    }

    String string(String key, String absent) {
        JsonNode value = find(key);
        if (value == null) {
            return absent;
        }
        if (!value.isString()) {
            throw wrong(key, "a string", value);
        }
        return value.stringValue();
    }

    /// A string that a section cannot do without.
    String requiredString(String key, String example) {
        if (find(key) == null) {
            throw new UserException(
                    file + ": " + path + " lacks \"" + key + "\": add it, for example " + example + ".");
        }
        return string(key, example);
    }

    /// One of the words given, in lower case. Null where the key is absent or null.
    @Nullable
    String word(String key, List<String> words) {
        String value = optionalString(key);
        if (value == null) {
            return null;
        }
        String lower = value.toLowerCase(Locale.ROOT);
        if (!words.contains(lower)) {
            throw new UserException(file + ": " + pathOf(key) + " must be one of " + String.join(", ", words)
                    + ", and is " + shortened("\"" + value + "\"") + ".");
        }
        return lower;
    }

    /// Takes every key of this object for known: it belongs to something that is refused as a whole.
    void takeAll() {
        if (node != null) {
            node.propertyNames().forEach(known::add);
        }
    }

    /// Refuses keys that nobody asked for.
    void done() {
        if (node == null) {
            return;
        }
        for (String key : node.propertyNames()) {
            if (!known.contains(key)) {
                throw new UserException(file + ": unknown key \"" + shortened(key) + "\""
                        + (path.isEmpty() ? "" : " in " + path) + ": did you mean \"" + Nearest.of(key, known) + "\"?");
            }
        }
    }

    private @Nullable JsonNode find(String key) {
        known.add(key);
        return node == null ? null : node.get(key);
    }

    private @Nullable JsonNode findUnlessAuto(String key) {
        JsonNode value = find(key);
        boolean open = value == null || value.isNull() || (value.isString() && AUTO.equals(value.stringValue()));
        return open ? null : value;
    }

    /// File and path of a key, as messages begin.
    String label(String key) {
        return file + ": " + pathOf(key);
    }

    private String pathOf(String key) {
        return path.isEmpty() ? key : path + "." + key;
    }

    private UserException wrong(String key, String expected, JsonNode value) {
        return new UserException(file + ": " + pathOf(key) + " must be " + expected + ", and is " + shown(value) + ".");
    }

    private static String shown(JsonNode value) {
        if (value.isObject()) {
            return "an object";
        }
        return value.isArray() ? "a list" : shortened(value.toString());
    }

    private static String shortened(String text) {
        String line = text.replaceAll("\\s+", " ");
        return line.length() <= 60 ? line : line.substring(0, 57) + "...";
    }

    /// A number as a person writes it: 1 and not 1.0.
    static String plain(double number) {
        return number == Math.rint(number) && Math.abs(number) < 1e15
                ? Long.toString((long) number)
                : Double.toString(number);
    }
}
