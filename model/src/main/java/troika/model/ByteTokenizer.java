package troika.model;

import java.nio.charset.StandardCharsets;
import java.util.OptionalInt;

/// A token is a byte of UTF-8 (ids 0 to 255); 256 begins a sequence and 257 ends a document.
public final class ByteTokenizer implements Tokenizer {
    private static final int BOS = 256;
    private static final int EOS = 257;

    @Override
    public int[] encode(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        int[] ids = new int[bytes.length];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = bytes[i] & 0xFF;
        }
        return ids;
    }

    @Override
    public String decode(int[] ids) {
        byte[] bytes = new byte[ids.length];
        int n = 0;
        for (int id : ids) {
            if (id < BOS) {
                bytes[n++] = (byte) id;
            }
        }
        return new String(bytes, 0, n, StandardCharsets.UTF_8);
    }

    @Override
    public int vocabularySize() {
        return 258;
    }

    @Override
    public OptionalInt bosId() {
        return OptionalInt.of(BOS);
    }

    @Override
    public OptionalInt eosId() {
        return OptionalInt.of(EOS);
    }

    @Override
    public String fingerprint() {
        return "bytes-258";
    }
}
