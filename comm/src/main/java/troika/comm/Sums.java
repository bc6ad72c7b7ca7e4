package troika.comm;

import static java.lang.foreign.ValueLayout.JAVA_FLOAT_UNALIGNED;
import static java.lang.foreign.ValueLayout.JAVA_SHORT_UNALIGNED;
import static java.nio.ByteOrder.nativeOrder;
import static troika.ffi.NativeMemory.ALL;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.ShortVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;
import troika.tensor.DType;

/// Sums of elements in native memory: in fp32, in the order of the addends, rounded once to nearest, ties to
/// even. Vectors and the rest of them, compiled or not, round alike.
final class Sums {
    private static final VectorSpecies<Float> F = FloatVector.SPECIES_PREFERRED;
    private static final VectorSpecies<Integer> I = VectorSpecies.of(int.class, F.vectorShape());
    private static final VectorSpecies<Short> S =
            VectorSpecies.of(short.class, VectorShape.forBitSize(F.vectorBitSize() / 2));
    private static final int LANES = F.length();

    private static final IntVector ONE = IntVector.broadcast(I, 1);
    private static final IntVector BELOW_HALF = IntVector.broadcast(I, 0x7fff);
    private static final IntVector MAGNITUDE = IntVector.broadcast(I, 0x7fffffff);
    private static final IntVector INFINITE = IntVector.broadcast(I, 0x7f800000);
    private static final IntVector NAN = IntVector.broadcast(I, 0x7fc00000);

    private Sums() {}

    /// Sums `count` elements, from element `first` on, of all addends.
    ///
    /// @param addends addresses of the addends' first elements
    /// @param target address of the sum's first element; it may be that of element `first` of one addend
    static void sum(DType dtype, long[] addends, long first, long count, long target) {
        switch (dtype) {
            case F32 -> sumF32(addends, 4 * first, count, target);
            case BF16 -> sumBf16(addends, 2 * first, count, target);
            case F16 -> sumF16(addends, 2 * first, count, target);
            case I32 -> throw new IllegalArgumentException("there are no sums of " + dtype);
        }
    }

    private static void sumF32(long[] addends, long offset, long count, long target) {
        long i = 0;
        for (; i + LANES <= count; i += LANES) {
            FloatVector total = loadF32(addends[0] + offset + 4 * i);
            for (int r = 1; r < addends.length; r++) {
                total = total.add(loadF32(addends[r] + offset + 4 * i));
            }
            total.intoMemorySegment(ALL, target + 4 * i, nativeOrder());
        }
        for (; i < count; i++) {
            float total = ALL.get(JAVA_FLOAT_UNALIGNED, addends[0] + offset + 4 * i);
            for (int r = 1; r < addends.length; r++) {
                total += ALL.get(JAVA_FLOAT_UNALIGNED, addends[r] + offset + 4 * i);
            }
            ALL.set(JAVA_FLOAT_UNALIGNED, target + 4 * i, total);
        }
    }

    private static void sumBf16(long[] addends, long offset, long count, long target) {
        long i = 0;
        for (; i + LANES <= count; i += LANES) {
            FloatVector total = loadBf16(addends[0] + offset + 2 * i);
            for (int r = 1; r < addends.length; r++) {
                total = total.add(loadBf16(addends[r] + offset + 2 * i));
            }
            storeBf16(target + 2 * i, total);
        }
        for (; i < count; i++) {
            float total = getBf16(addends[0] + offset + 2 * i);
            for (int r = 1; r < addends.length; r++) {
                total += getBf16(addends[r] + offset + 2 * i);
            }
            ALL.set(JAVA_SHORT_UNALIGNED, target + 2 * i, bf16(total));
        }
    }

    // The JDK has no vector conversion of F16; its scalar one is an instruction.
    private static void sumF16(long[] addends, long offset, long count, long target) {
        for (long i = 0; i < count; i++) {
            float total = getF16(addends[0] + offset + 2 * i);
            for (int r = 1; r < addends.length; r++) {
                total += getF16(addends[r] + offset + 2 * i);
            }
            ALL.set(JAVA_SHORT_UNALIGNED, target + 2 * i, Float.floatToFloat16(total));
        }
    }

    private static FloatVector loadF32(long address) {
        return FloatVector.fromMemorySegment(F, ALL, address, nativeOrder());
    }

    private static FloatVector loadBf16(long address) {
        ShortVector bits = ShortVector.fromMemorySegment(S, ALL, address, nativeOrder());
        return ((IntVector) bits.convertShape(VectorOperators.ZERO_EXTEND_S2I, I, 0))
                .lanewise(VectorOperators.LSHL, 16)
                .reinterpretAsFloats();
    }

    private static void storeBf16(long address, FloatVector v) {
        IntVector raw = v.reinterpretAsInts();
        IntVector bits =
                raw.blend(NAN, raw.lanewise(VectorOperators.AND, MAGNITUDE).compare(VectorOperators.GT, INFINITE));
        IntVector odd = bits.lanewise(VectorOperators.LSHR, 16).lanewise(VectorOperators.AND, ONE);
        IntVector rounded = bits.lanewise(VectorOperators.ADD, BELOW_HALF)
                .lanewise(VectorOperators.ADD, odd)
                .lanewise(VectorOperators.LSHR, 16);
        rounded.convertShape(VectorOperators.I2S, S, 0)
                .reinterpretAsShorts()
                .intoMemorySegment(ALL, address, nativeOrder());
    }

    private static float getBf16(long address) {
        return Float.intBitsToFloat(ALL.get(JAVA_SHORT_UNALIGNED, address) << 16);
    }

    private static short bf16(float x) {
        int bits = Float.floatToRawIntBits(x);
        return Float.isNaN(x) ? 0x7fc0 : (short) ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
    }

    private static float getF16(long address) {
        return Float.float16ToFloat(ALL.get(JAVA_SHORT_UNALIGNED, address));
    }
}
