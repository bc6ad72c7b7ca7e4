package troika.cuda;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.jspecify.annotations.Nullable;

/// An algorithm as the cache keeps it, which guards the bytes: cuBLASLt trusts those of an algorithm, and
/// might crash on others.
///
/// @param bytes of cublasLtMatmulAlgo_t
/// @param milliseconds that the product took when it was chosen
record SavedAlgorithm(byte[] bytes, float milliseconds) {
    private static final int BYTES = CublasLt.ALGORITHM_BYTES + Float.BYTES;

    byte[] encoded() {
        ByteBuffer out = ByteBuffer.allocate(BYTES).order(ByteOrder.LITTLE_ENDIAN);
        return out.put(bytes).putFloat(milliseconds).array();
    }

    /// What [#encoded] gave, or null for none and for what cannot be one.
    static @Nullable SavedAlgorithm decode(byte @Nullable [] encoded) {
        if (encoded == null || encoded.length != BYTES) {
            return null;
        }
        ByteBuffer in = ByteBuffer.wrap(encoded).order(ByteOrder.LITTLE_ENDIAN);
        byte[] bytes = new byte[CublasLt.ALGORITHM_BYTES];
        in.get(bytes);
        return new SavedAlgorithm(bytes, in.getFloat());
    }
}
