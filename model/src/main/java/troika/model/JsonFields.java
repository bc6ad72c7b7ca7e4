package troika.model;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import tools.jackson.core.JacksonException;
import tools.jackson.core.StreamReadFeature;
import tools.jackson.databind.DeserializationFeature;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;
import tools.jackson.databind.node.ObjectNode;
import troika.tensor.UserException;

/// A JSON object from a file, read strictly: whatever is not as asked is refused in one sentence that names
/// the file and the key. A key whose value is `null` counts as absent.
public final class JsonFields {
    private static final int LONGEST_SHOWN = 60;
    private static final JsonMapper MAPPER = JsonMapper.builder()
            .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();

    private final String file;
    private final String prefix;
    private final ObjectNode node;

    private JsonFields(String file, String prefix, ObjectNode node) {
        this.file = file;
        this.prefix = prefix;
        this.node = node;
    }

    /// Reads a file whose content is one JSON object.
    ///
    /// @throws UserException where the file cannot be read or is no JSON object in UTF-8 without
    ///   duplicate keys
    public static JsonFields read(Path file) {
        return parse(file.toString(), bytes(file));
    }

    /// Parses one JSON object; `file` names its origin in refusals.
    ///
    /// @throws UserException where `utf8` is no JSON object in UTF-8 without duplicate keys
    public static JsonFields parse(String file, byte[] utf8) {
        JsonNode parsed;
        try {
            parsed = MAPPER.readTree(text(file, utf8));
        } catch (JacksonException e) {
            throw new UserException(file + " is not valid JSON: " + reason(e) + ".", e);
        }
        if (parsed instanceof ObjectNode object) {
            return new JsonFields(file, "", object);
        }
        throw new UserException(file + " must contain one JSON object, but contains " + shown(parsed) + ".");
    }

    /// The bytes of an indented JSON text.
    public static byte[] write(JsonNode node) {
        String text = MAPPER.writerWithDefaultPrettyPrinter().writeValueAsString(node) + "\n";
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /// An empty JSON object to be filled.
    public static ObjectNode newObject() {
        return MAPPER.createObjectNode();
    }

    static byte[] bytes(Path file) {
        try {
            return Files.readAllBytes(file);
        } catch (NoSuchFileException e) {
            throw new UserException(file + " does not exist.", e);
        } catch (IOException | OutOfMemoryError e) {
            throw new UserException(file + " cannot be read: " + e.getMessage() + ".", e);
        }
    }

    static String text(String file, byte[] utf8) {
        try {
            return StandardCharsets.UTF_8
                    .newDecoder()
                    .decode(ByteBuffer.wrap(utf8))
                    .toString();
        } catch (CharacterCodingException e) {
            throw new UserException(file + " is not UTF-8 text.", e);
        }
    }

    static String reason(JacksonException e) {
        String line = String.valueOf(e.getOriginalMessage())
                .lines()
                .findFirst()
                .orElse("unexpected content")
                .replaceFirst(" \\(start marker at .*", "");
        var at = e.getLocation();
        return (at == null || at.getLineNr() < 1)
                ? line
                : line + " (line " + at.getLineNr() + ", column " + at.getColumnNr() + ")";
    }

    /// Whether the key is there with a value other than `null`.
    public boolean has(String key) {
        JsonNode value = node.get(key);
        return value != null && !value.isNull();
    }

    /// The keys with values other than `null`, in the file's order.
    public List<String> keys() {
        var keys = new ArrayList<String>();
        for (var property : node.properties()) {
            if (!property.getValue().isNull()) {
                keys.add(property.getKey());
            }
        }
        return keys;
    }

    /// A whole number in [min, max]; `1.0` is not one.
    public long whole(String key, long min, long max) {
        JsonNode value = required(key);
        if (value.isIntegralNumber() && value.canConvertToLong()) {
            long number = value.longValue();
            if (number >= min && number <= max) {
                return number;
            }
        }
        throw refusal(key, "must be a whole number from " + min + " to " + max + ", but is " + shown(value));
    }

    /// [#whole] where the key is there, otherwise `absent`.
    public long whole(String key, long min, long max, long absent) {
        return has(key) ? whole(key, min, max) : absent;
    }

    /// A finite number in [min, max].
    public double number(String key, double min, double max) {
        JsonNode value = required(key);
        if (value.isNumber()) {
            double number = value.numberValue().doubleValue();
            if (number >= min && number <= max) {
                return number;
            }
        }
        throw refusal(key, "must be a number from " + min + " to " + max + ", but is " + shown(value));
    }

    /// [#number] where the key is there, otherwise `absent`.
    public double number(String key, double min, double max, double absent) {
        return has(key) ? number(key, min, max) : absent;
    }

    public String string(String key) {
        JsonNode value = required(key);
        if (value.isString()) {
            return value.stringValue();
        }
        throw refusal(key, "must be a string, but is " + shown(value));
    }

    /// [#string] where the key is there, otherwise `absent`.
    public String string(String key, String absent) {
        return has(key) ? string(key) : absent;
    }

    /// A truth value where the key is there, otherwise `absent`.
    public boolean truth(String key, boolean absent) {
        if (!has(key)) {
            return absent;
        }
        JsonNode value = required(key);
        if (value.isBoolean()) {
            return value.booleanValue();
        }
        throw refusal(key, "must be true or false, but is " + shown(value));
    }

    public JsonFields object(String key) {
        JsonNode value = required(key);
        if (value instanceof ObjectNode object) {
            return new JsonFields(file, prefix + key + ".", object);
        }
        throw refusal(key, "must be an object in braces, but is " + shown(value));
    }

    /// The raw value, for the few keys that may have several types; null where absent.
    @Nullable
    JsonNode raw(String key) {
        return has(key) ? node.get(key) : null;
    }

    /// The refusal of a key: "`key` in `file` `problem`."
    public UserException refusal(String key, String problem) {
        return new UserException(shortened(prefix + key) + " in " + file + " " + problem + ".");
    }

    /// The same refusal, saying that it is about this file.
    UserException within(UserException e) {
        return new UserException("In " + file + ", " + e.getMessage(), e);
    }

    private JsonNode required(String key) {
        JsonNode value = node.get(key);
        if (value == null || value.isNull()) {
            throw refusal(key, "is missing");
        }
        return value;
    }

    private static String shown(JsonNode value) {
        return shortened(
                value.isArray()
                        ? "a list"
                        : value.isObject() ? "an object" : value.isMissingNode() ? "nothing" : value.toString());
    }

    private static String shortened(String text) {
        return text.length() <= LONGEST_SHOWN ? text : text.substring(0, LONGEST_SHOWN) + "…";
    }
}
