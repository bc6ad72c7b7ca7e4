package troika.cuda;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.zip.CRC32C;
import org.jspecify.annotations.Nullable;

/// An algorithm as the cache keeps it, with a checksum: cuBLASLt trusts the bytes of an algorithm, and may crash on
/// others.
///
/// @param bytes of cublasLtMatmulAlgo_t
/// @param milliseconds that the product took when it was chosen
record SavedAlgorithm(byte[] bytes, float milliseconds) {
    private static final int CONTENT = CublasLt.ALGORITHM_BYTES + Float.BYTES;

    byte[] encoded() {
        ByteBuffer out = ByteBuffer.allocate(CONTENT + Integer.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        out.put(bytes).putFloat(milliseconds);
        return out.putInt(checksum(out.array())).array();
    }

    /// What [#encoded] gave, or null where it is anything else.
    static @Nullable SavedAlgorithm decode(byte @Nullable [] encoded) {
        if (encoded == null || encoded.length != CONTENT + Integer.BYTES) {
            return null;
        }
        ByteBuffer in = ByteBuffer.wrap(encoded).order(ByteOrder.LITTLE_ENDIAN);
        byte[] bytes = new byte[CublasLt.ALGORITHM_BYTES];
        in.get(bytes);
        float milliseconds = in.getFloat();
        return in.getInt() == checksum(encoded) ? new SavedAlgorithm(bytes, milliseconds) : null;
    }

    private static int checksum(byte[] encoded) {
        CRC32C checksum = new CRC32C();
        checksum.update(encoded, 0, CONTENT);
        return (int) checksum.getValue();
    }
}
