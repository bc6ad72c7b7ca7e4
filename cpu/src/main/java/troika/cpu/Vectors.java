package troika.cpu;

import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import jdk.incubator.vector.DoubleVector;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.ShortVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorShuffle;
import jdk.incubator.vector.VectorSpecies;

/// Vectors of floats from and to native memory that holds F32 or BF16, and the functions that the JDK lacks. Every
/// operation rounds alike whether interpreted or compiled; that is why lanes are summed here and not by `reduceLanes`,
/// whose order is unspecified.
///
/// An index `i` counts elements from `address`. `count` is the number of elements that a load or store moves: [#LANES],
/// or fewer for the rest of a row, where the other lanes load as zero and are not stored.
final class Vectors {
    static final VectorSpecies<Float> F = FloatVector.SPECIES_PREFERRED;
    static final int LANES = F.length();

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final VectorSpecies<Integer> I = VectorSpecies.of(int.class, F.vectorShape());
    private static final VectorSpecies<Short> S =
            VectorSpecies.of(short.class, VectorShape.forBitSize(F.vectorBitSize() / 2));
    private static final VectorSpecies<Float> HALF =
            VectorSpecies.of(float.class, VectorShape.forBitSize(F.vectorBitSize() / 2));
    private static final VectorSpecies<Double> D = VectorSpecies.of(double.class, F.vectorShape());
    static final int DOUBLES = D.length();

    private static final float LOG2_E = (float) (1 / Math.log(2));
    // ln 2 in two parts, the first with few enough bits that its product with a whole exponent is exact.
    private static final float LN2_HIGH = 355f / 512;
    private static final float LN2_LOW = (float) (Math.log(2) - LN2_HIGH);
    // Adding 1.5 · 2²³ rounds a float to a whole number, which is then in the sum's low bits.
    private static final float ROUNDER = 0x1.8p23f;
    private static final int ROUNDER_BITS = Float.floatToRawIntBits(ROUNDER);
    // Beyond these, e to the x is 0 or infinite in fp32.
    private static final float EXP_LOW = -104;
    private static final float EXP_HIGH = 89;

    private static final VectorShuffle<Float> BY_8 = VectorShuffle.fromOp(F, lane -> lane ^ (8 % LANES));
    private static final VectorShuffle<Float> BY_4 = VectorShuffle.fromOp(F, lane -> lane ^ (4 % LANES));
    private static final VectorShuffle<Float> BY_2 = VectorShuffle.fromOp(F, lane -> lane ^ 2);
    private static final VectorShuffle<Float> BY_1 = VectorShuffle.fromOp(F, lane -> lane ^ 1);

    private static final List<VectorMask<Float>> MASKS = masks(F);
    private static final List<VectorMask<Short>> SHORT_MASKS = masks(S);

    private Vectors() {}

    private static <E> List<VectorMask<E>> masks(VectorSpecies<E> species) {
        List<VectorMask<E>> masks = new ArrayList<>();
        for (int n = 0; n < species.length(); n++) {
            masks.add(species.indexInRange(0, n));
        }
        return List.copyOf(masks);
    }

    static FloatVector load(boolean bf16, long address, int i, int count) {
        return bf16 ? loadBf16(address + 2L * i, count) : loadF32(address + 4L * i, count);
    }

    static FloatVector load(boolean bf16, long address, int i) {
        return bf16 ? loadBf16(address + 2L * i, LANES) : loadF32(address + 4L * i, LANES);
    }

    static FloatVector loadF32(long at, int count) {
        return count == LANES
                ? FloatVector.fromMemorySegment(F, ALL, at, ORDER)
                : FloatVector.fromMemorySegment(F, ALL, at, ORDER, MASKS.get(count));
    }

    private static FloatVector loadBf16(long at, int count) {
        ShortVector bits = count == LANES
                ? ShortVector.fromMemorySegment(S, ALL, at, ORDER)
                : ShortVector.fromMemorySegment(S, ALL, at, ORDER, SHORT_MASKS.get(count));
        return ((IntVector) bits.convertShape(VectorOperators.ZERO_EXTEND_S2I, I, 0))
                .lanewise(VectorOperators.LSHL, 16)
                .reinterpretAsFloats();
    }

    /// As [#load], but the other lanes are `other`.
    static FloatVector loadOr(boolean bf16, long address, int i, int count, float other) {
        FloatVector v = load(bf16, address, i, count);
        return count == LANES ? v : FloatVector.broadcast(F, other).blend(v, MASKS.get(count));
    }

    static void store(boolean bf16, long address, int i, int count, FloatVector v) {
        if (bf16) {
            storeBf16(address + 2L * i, count, v);
        } else {
            storeF32(address + 4L * i, count, v);
        }
    }

    static void storeF32(long at, int count, FloatVector v) {
        if (count == LANES) {
            v.intoMemorySegment(ALL, at, ORDER);
        } else {
            v.intoMemorySegment(ALL, at, ORDER, MASKS.get(count));
        }
    }

    // Rounds to nearest, ties to even; a NaN stays one.
    private static void storeBf16(long at, int count, FloatVector v) {
        IntVector bits = v.reinterpretAsInts();
        IntVector odd = bits.lanewise(VectorOperators.LSHR, 16).lanewise(VectorOperators.AND, 1);
        IntVector rounded = bits.add(0x7fff).add(odd).lanewise(VectorOperators.LSHR, 16);
        IntVector result =
                rounded.blend(0x7fc0, v.compare(VectorOperators.NE, v).cast(I));
        ShortVector shorts = (ShortVector) result.convertShape(VectorOperators.I2S, S, 0);
        if (count == LANES) {
            shorts.intoMemorySegment(ALL, at, ORDER);
        } else {
            shorts.intoMemorySegment(ALL, at, ORDER, SHORT_MASKS.get(count));
        }
    }

    /// One element.
    static float get(boolean bf16, long address, int i) {
        return bf16
                ? Float.intBitsToFloat(ALL.get(ValueLayout.JAVA_SHORT, address + 2L * i) << 16)
                : ALL.get(ValueLayout.JAVA_FLOAT, address + 4L * i);
    }

    static void put(boolean bf16, long address, int i, float x) {
        if (bf16) {
            ALL.set(ValueLayout.JAVA_SHORT, address + 2L * i, bf16(x));
        } else {
            ALL.set(ValueLayout.JAVA_FLOAT, address + 4L * i, x);
        }
    }

    static float getF32(long at) {
        return ALL.get(ValueLayout.JAVA_FLOAT, at);
    }

    static void putF32(long at, float x) {
        ALL.set(ValueLayout.JAVA_FLOAT, at, x);
    }

    static int getI32(long address, int i) {
        return ALL.get(ValueLayout.JAVA_INT, address + 4L * i);
    }

    static double getF64(long address, int i) {
        return ALL.get(ValueLayout.JAVA_DOUBLE, address + 8L * i);
    }

    static void putF64(long address, int i, double x) {
        ALL.set(ValueLayout.JAVA_DOUBLE, address + 8L * i, x);
    }

    /// The bits of x rounded to BF16.
    static short bf16(float x) {
        int bits = Float.floatToRawIntBits(x);
        return Float.isNaN(x) ? 0x7fc0 : (short) ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
    }

    static FloatVector zeros() {
        return FloatVector.zero(F);
    }

    static FloatVector all(float x) {
        return FloatVector.broadcast(F, x);
    }

    /// e to the x, within 2 units in the last place; 0 below −104, infinite above 89, NaN for NaN.
    static FloatVector exp(FloatVector x) {
        FloatVector low = x.blend(EXP_LOW, x.compare(VectorOperators.LT, EXP_LOW));
        FloatVector in = low.blend(EXP_HIGH, low.compare(VectorOperators.GT, EXP_HIGH));
        FloatVector shifted = in.fma(all(LOG2_E), all(ROUNDER));
        FloatVector whole = shifted.sub(ROUNDER);
        FloatVector r = whole.fma(all(-LN2_LOW), whole.fma(all(-LN2_HIGH), in));
        // Taylor's series: |r| ≤ ln 2 / 2, so that the next term is below 2⁻²⁷.
        FloatVector p = r.fma(all(1f / 5040), all(1f / 720));
        p = p.fma(r, all(1f / 120));
        p = p.fma(r, all(1f / 24));
        p = p.fma(r, all(1f / 6));
        p = p.fma(r, all(0.5f));
        p = p.fma(r, all(1));
        p = p.fma(r, all(1));
        // Two factors, for results that are denormal or infinite.
        IntVector n = shifted.reinterpretAsInts().sub(ROUNDER_BITS);
        IntVector half = n.lanewise(VectorOperators.ASHR, 1);
        return p.mul(powerOf2(half)).mul(powerOf2(n.sub(half)));
    }

    private static FloatVector powerOf2(IntVector n) {
        return n.add(127).lanewise(VectorOperators.LSHL, 23).reinterpretAsFloats();
    }

    /// 1 / (1 + e to the −x).
    static FloatVector sigmoid(FloatVector x) {
        return all(1).div(exp(x.neg()).add(1));
    }

    /// The larger of each lane, a NaN in `v` being ignored.
    static FloatVector max(FloatVector max, FloatVector v) {
        return max.blend(v, v.compare(VectorOperators.GT, max));
    }

    /// The sum of the lanes, halves first.
    static float sum(FloatVector v) {
        FloatVector s = LANES >= 16 ? v.add(v.rearrange(BY_8)) : v;
        s = LANES >= 8 ? s.add(s.rearrange(BY_4)) : s;
        s = s.add(s.rearrange(BY_2));
        return s.add(s.rearrange(BY_1)).lane(0);
    }

    /// The largest lane.
    static float max(FloatVector v) {
        FloatVector m = LANES >= 16 ? max(v, v.rearrange(BY_8)) : v;
        m = LANES >= 8 ? max(m, m.rearrange(BY_4)) : m;
        m = max(m, m.rearrange(BY_2));
        return max(m, m.rearrange(BY_1)).lane(0);
    }

    static DoubleVector zeroDoubles() {
        return DoubleVector.zero(D);
    }

    /// sum + x² of the [#DOUBLES] floats at `at`, in double.
    static DoubleVector addSquares(long at, DoubleVector sum) {
        DoubleVector x = (DoubleVector)
                FloatVector.fromMemorySegment(HALF, ALL, at, ORDER).convertShape(VectorOperators.F2D, D, 0);
        return x.fma(x, sum);
    }

    /// The sum of the lanes, first to last.
    static double sum(DoubleVector v) {
        double s = 0;
        for (int lane = 0; lane < DOUBLES; lane++) {
            s += v.lane(lane);
        }
        return s;
    }
}
