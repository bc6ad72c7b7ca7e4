package troika.model;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import tools.jackson.core.JacksonException;
import tools.jackson.core.JsonParser;
import tools.jackson.core.JsonToken;
import tools.jackson.core.ObjectReadContext;
import tools.jackson.core.StreamReadConstraints;
import tools.jackson.core.json.JsonFactory;
import troika.tensor.Shape;
import troika.tensor.UserException;

/// The header of a safetensors file, parsed token by token so that a hostile one costs no more memory than
/// its own size suggests.
final class SafetensorsHeader {
    static final String METADATA = "__metadata__";

    /// Bits of an element, by the format's names.
    private static final Map<String, Integer> BITS = Map.ofEntries(
            Map.entry("BOOL", 8),
            Map.entry("F4", 4),
            Map.entry("F6_E2M3", 6),
            Map.entry("F6_E3M2", 6),
            Map.entry("U8", 8),
            Map.entry("I8", 8),
            Map.entry("F8_E5M2", 8),
            Map.entry("F8_E4M3", 8),
            Map.entry("F8_E8M0", 8),
            Map.entry("F8_E4M3FNUZ", 8),
            Map.entry("F8_E5M2FNUZ", 8),
            Map.entry("I16", 16),
            Map.entry("U16", 16),
            Map.entry("F16", 16),
            Map.entry("BF16", 16),
            Map.entry("I32", 32),
            Map.entry("U32", 32),
            Map.entry("F32", 32),
            Map.entry("C64", 64),
            Map.entry("F64", 64),
            Map.entry("I64", 64),
            Map.entry("U64", 64));

    private static final int MOST_DIMENSIONS = 64;
    private static final JsonFactory FACTORY = JsonFactory.builder()
            .streamReadConstraints(StreamReadConstraints.builder()
                    .maxNestingDepth(8)
                    .maxNumberLength(30)
                    .build())
            .build();

    /// @param begin offset of the first byte in the data that follows the header
    /// @param end   offset behind the last byte
    record Entry(String name, String dtype, Shape shape, long begin, long end) {}

    private final String file;
    private final Map<String, Entry> entries = new LinkedHashMap<>();

    private SafetensorsHeader(String file) {
        this.file = file;
    }

    /// Parses a header and checks that its tensors tile the data.
    ///
    /// @param file      names the file in refusals
    /// @param utf8      the header's bytes, padding included
    /// @param dataBytes the bytes behind the header
    /// @return the entries by name, in the header's order
    static Map<String, Entry> parse(String file, byte[] utf8, long dataBytes) {
        var header = new SafetensorsHeader(file);
        String text = JsonFields.text("The header of " + file, utf8);
        try (JsonParser json = FACTORY.createParser(ObjectReadContext.empty(), text)) {
            header.parse(json);
        } catch (JacksonException e) {
            throw new UserException("The header of " + file + " is not valid JSON: " + JsonFields.reason(e) + ".", e);
        }
        header.requireTiling(dataBytes);
        return header.entries;
    }

    private void parse(JsonParser json) {
        require(json.nextToken() == JsonToken.START_OBJECT, "is no JSON object");
        boolean metadata = false;
        while (json.nextToken() == JsonToken.PROPERTY_NAME) {
            String name = json.currentName();
            if (name.equals(METADATA)) {
                require(!metadata, "has two entries " + METADATA);
                metadata = true;
                readMetadata(json);
            } else {
                Entry entry = readEntry(json, name);
                if (entries.put(name, entry) != null) {
                    throw refusal(name, "is there twice");
                }
            }
        }
        require(json.nextToken() == null, "has something behind its JSON object");
    }

    private void readMetadata(JsonParser json) {
        require(json.nextToken() == JsonToken.START_OBJECT, "has a " + METADATA + " that is no object");
        var keys = new HashSet<String>();
        while (json.nextToken() == JsonToken.PROPERTY_NAME) {
            String key = json.currentName();
            require(keys.add(key), "has a key twice in " + METADATA);
            require(json.nextToken() == JsonToken.VALUE_STRING, "has a value in " + METADATA + " that is no string");
        }
    }

    private Entry readEntry(JsonParser json, String name) {
        if (json.nextToken() != JsonToken.START_OBJECT) {
            throw refusal(name, "is no object in the header");
        }
        String dtype = "";
        List<Long> shape = null;
        List<Long> offsets = null;
        while (json.nextToken() == JsonToken.PROPERTY_NAME) {
            String key = json.currentName();
            JsonToken value = json.nextToken();
            if (key.equals("dtype") && dtype.isEmpty() && value == JsonToken.VALUE_STRING) {
                dtype = json.getString();
            } else if (key.equals("shape") && shape == null) {
                shape = readNumbers(json, name, key);
            } else if (key.equals("data_offsets") && offsets == null) {
                offsets = readNumbers(json, name, key);
            } else {
                throw refusal(name, "has an unexpected " + shortened(key) + " in the header");
            }
        }
        if (dtype.isEmpty() || shape == null || offsets == null || offsets.size() != 2) {
            throw refusal(name, "needs a dtype, a shape and two data_offsets in the header");
        }
        Integer bits = BITS.get(dtype);
        if (bits == null) {
            throw refusal(name, "has the unknown dtype " + shortened(dtype));
        }
        var sizes = new Shape(shape.stream().mapToLong(Long::longValue).toArray());
        long begin = offsets.get(0);
        long end = offsets.get(1);
        if (begin > end) {
            throw refusal(name, "has data_offsets that end before they begin");
        }
        if (bits(name, sizes, bits) != (end - begin) * 8) {
            throw refusal(
                    name,
                    "has shape " + sizes + " of " + dtype + ", which does not take its " + (end - begin) + " bytes");
        }
        return new Entry(name, dtype, sizes, begin, end);
    }

    private long bits(String name, Shape shape, int bits) {
        try {
            return Math.multiplyExact(shape.elements(), bits);
        } catch (ArithmeticException e) {
            throw refusal(name, "has a shape " + shape + " of more elements than a file can have");
        }
    }

    private List<Long> readNumbers(JsonParser json, String name, String key) {
        if (json.currentToken() != JsonToken.START_ARRAY) {
            throw refusal(name, "has a " + key + " that is no list");
        }
        var numbers = new ArrayList<Long>();
        while (json.nextToken() == JsonToken.VALUE_NUMBER_INT) {
            boolean isLong = json.getNumberType() != JsonParser.NumberType.BIG_INTEGER;
            // A file has at most 2^63 bytes, and the size in bits must fit a long too.
            if (!isLong
                    || json.getLongValue() < 0
                    || json.getLongValue() > Long.MAX_VALUE / 8
                    || numbers.size() == MOST_DIMENSIONS) {
                throw refusal(
                        name, "has a " + key + " with a number below 0 or far too large, or with too many numbers");
            }
            numbers.add(json.getLongValue());
        }
        if (json.currentToken() != JsonToken.END_ARRAY) {
            throw refusal(name, "has a " + key + " with something other than whole numbers");
        }
        return numbers;
    }

    private void requireTiling(long dataBytes) {
        var sorted = new ArrayList<>(entries.values());
        sorted.sort(Comparator.comparingLong(Entry::begin).thenComparingLong(Entry::end));
        long at = 0;
        for (Entry entry : sorted) {
            if (entry.end > dataBytes) {
                throw refusal(
                        entry.name,
                        "ends at byte " + entry.end + " of the data, but only " + dataBytes
                                + " are there: the file is cut short");
            }
            if (entry.begin != at) {
                throw refusal(
                        entry.name,
                        "begins at byte " + entry.begin + " of the data, but the tensor before it ends at " + at
                                + ": tensors must neither overlap nor leave holes");
            }
            at = entry.end;
        }
        require(at == dataBytes, "describes " + at + " bytes of data, but " + dataBytes + " are there");
    }

    private void require(boolean holds, String problem) {
        if (!holds) {
            throw new UserException("The header of " + file + " " + problem + ".");
        }
    }

    private UserException refusal(String name, String problem) {
        return new UserException("Tensor " + shortened(name) + " in " + file + " " + problem + ".");
    }

    private static String shortened(String name) {
        return name.length() <= 200 ? name : name.substring(0, 200) + "…";
    }
}
