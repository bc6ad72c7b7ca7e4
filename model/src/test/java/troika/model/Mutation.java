package troika.model;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Random;

/// Damages files at random: flips, deletes, inserts, repeats and swaps bytes, and puts in tokens that
/// parsers trip over.
final class Mutation {
    private static final String[] TOKENS = {
        "null",
        "-1",
        "1e999",
        "9223372036854775807",
        "18446744073709551616",
        "\"",
        "{",
        "}",
        "[",
        "]",
        "[]",
        "{}",
        ":",
        ",",
        "\\u0000",
        "\ud83d\ude00",
        "-0",
        "0.5",
        "true",
        "\"F64\"",
        "../",
        "0",
        "8",
        "99"
    };

    private Mutation() {}

    static byte[] of(byte[] original, int mutations, Random random) {
        byte[] bytes = original;
        for (int i = 0; i < mutations; i++) {
            bytes = once(bytes, random);
        }
        return bytes;
    }

    private static byte[] once(byte[] bytes, Random random) {
        int from = random.nextInt(bytes.length + 1);
        int to = Math.min(bytes.length, from + random.nextInt(12));
        var out = new ByteArrayOutputStream();
        out.write(bytes, 0, from);
        switch (random.nextInt(7)) {
            case 0 -> out.write(random.nextInt(256));
            case 1 -> out.writeBytes(TOKENS[random.nextInt(TOKENS.length)].getBytes(StandardCharsets.UTF_8));
            case 2 -> {
                out.write(bytes, from, to - from);
                out.write(bytes, from, to - from);
            }
            case 3 -> to = from; // replaced below by a flipped digit
            case 4 -> {
                int end = Math.min(bytes.length, to + random.nextInt(200));
                out.write(bytes, to, end - to);
                out.write(bytes, from, to - from);
                to = end;
            }
            case 5 -> to = Math.min(bytes.length, from + 1);
            default -> {}
        }
        out.write(bytes, to, bytes.length - to);
        byte[] result = out.toByteArray();
        if (result.length > 0 && random.nextBoolean()) {
            int at = random.nextInt(result.length);
            boolean digit = result[at] >= '0' && result[at] <= '9';
            result[at] = (byte) (digit ? '0' + random.nextInt(10) : result[at] ^ (1 << random.nextInt(8)));
        }
        return result;
    }
}
