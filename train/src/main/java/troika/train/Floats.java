package troika.train;

import static java.lang.foreign.ValueLayout.JAVA_FLOAT_UNALIGNED;
import static java.lang.foreign.ValueLayout.JAVA_SHORT_UNALIGNED;

import java.lang.foreign.MemorySegment;
import java.util.stream.IntStream;
import troika.tensor.DType;

/// Conversion between Java's floats and elements as files and devices store them.
final class Floats {
    private static final int PIECE = 1 << 15;

    private Floats() {}

    /// Stores `count` floats, rounded to nearest, ties to even.
    static void store(float[] from, int count, DType dtype, MemorySegment to) {
        switch (dtype) {
            case F32 -> MemorySegment.copy(from, 0, to, JAVA_FLOAT_UNALIGNED, 0, count);
            case BF16 ->
                inPieces(count, (start, end) -> {
                    for (int i = start; i < end; i++) {
                        to.set(JAVA_SHORT_UNALIGNED, 2L * i, bf16(from[i]));
                    }
                });
            case F16 ->
                inPieces(count, (start, end) -> {
                    for (int i = start; i < end; i++) {
                        to.set(JAVA_SHORT_UNALIGNED, 2L * i, Float.floatToFloat16(from[i]));
                    }
                });
            case I32 -> throw new IllegalArgumentException("I32 holds no floats");
        }
    }

    private interface Piece {
        void store(int start, int end);
    }

    /// Stores 0 … count − 1, pieces of them on several cores.
    private static void inPieces(int count, Piece action) {
        IntStream.range(0, Math.ceilDiv(count, PIECE))
                .parallel()
                .forEach(piece -> action.store(piece * PIECE, Math.min(count, (piece + 1) * PIECE)));
    }

    /// Loads `count` elements.
    static void load(MemorySegment from, DType dtype, int count, float[] to) {
        switch (dtype) {
            case F32 -> MemorySegment.copy(from, JAVA_FLOAT_UNALIGNED, 0, to, 0, count);
            case BF16 -> {
                for (int i = 0; i < count; i++) {
                    to[i] = Float.intBitsToFloat(from.get(JAVA_SHORT_UNALIGNED, 2L * i) << 16);
                }
            }
            case F16 -> {
                for (int i = 0; i < count; i++) {
                    to[i] = Float.float16ToFloat(from.get(JAVA_SHORT_UNALIGNED, 2L * i));
                }
            }
            case I32 -> throw new IllegalArgumentException("I32 holds no floats");
        }
    }

    static short bf16(float value) {
        int bits = Float.floatToRawIntBits(value);
        if (Float.isNaN(value)) {
            return (short) ((bits >> 16) | 0x40);
        }
        return (short) ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
    }
}
