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

    // Constants are vectors because the compiler gives up on a method, and boxes its vectors, where broadcasts and
    // other
    // conveniences make it too large: loops here have few operations, and those the plainest.
    private static final FloatVector ZERO = all(0);
    private static final FloatVector ONE = all(1);
    private static final FloatVector INFINITY = all(Float.POSITIVE_INFINITY);
    private static final FloatVector LOG2_E = all((float) (1 / Math.log(2)));
    // −ln 2 in two parts, the first with few enough bits that its product with a whole exponent is exact.
    private static final FloatVector LN2_HIGH = all(-355f / 512);
    private static final FloatVector LN2_LOW = all((float) (355d / 512 - Math.log(2)));
    // Adding 1.5 · 2²³ rounds a float to a whole number, which is then in the sum's low bits.
    private static final FloatVector ROUNDER = all(0x1.8p23f);
    // Outside of these, e to the x is not a normal number: its exponent is not within −126 … 127.
    private static final FloatVector EXP_LOW = all(-87.3f);
    private static final FloatVector EXP_HIGH = all(88.3f);
    private static final FloatVector C2 = all(1f / 2);
    private static final FloatVector C3 = all(1f / 6);
    private static final FloatVector C4 = all(1f / 24);
    private static final FloatVector C5 = all(1f / 120);
    private static final FloatVector C6 = all(1f / 720);
    private static final FloatVector C7 = all(1f / 5040);
    private static final IntVector EXPONENT_OF_ONE = ints(127 << 23);
    private static final IntVector INT_ONE = ints(1);
    private static final IntVector BELOW_HALF = ints(0x7fff);
    private static final IntVector MAGNITUDE = ints(0x7fffffff);
    private static final IntVector INFINITE = ints(0x7f800000);
    private static final IntVector NAN = ints(0x7fc00000);

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

    /// As [#store], for what was computed from elements of the compute dtype: a NaN among it has no payload that
    /// rounding could carry into its sign, so that it needs no care.
    static void storeResult(boolean bf16, long address, int i, int count, FloatVector v) {
        if (bf16) {
            storeRounded(address + 2L * i, count, v.reinterpretAsInts());
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

    // Rounds to nearest, ties to even; a NaN stays one, though all its bits be ones.
    private static void storeBf16(long at, int count, FloatVector v) {
        IntVector bits = v.reinterpretAsInts();
        storeRounded(
                at,
                count,
                bits.blend(NAN, bits.lanewise(VectorOperators.AND, MAGNITUDE).compare(VectorOperators.GT, INFINITE)));
    }

    private static void storeRounded(long at, int count, IntVector bits) {
        IntVector odd = bits.lanewise(VectorOperators.LSHR, 16).lanewise(VectorOperators.AND, INT_ONE);
        IntVector result = bits.lanewise(VectorOperators.ADD, BELOW_HALF)
                .lanewise(VectorOperators.ADD, odd)
                .lanewise(VectorOperators.LSHR, 16);
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

    /// The start of a sum; not a constant, which a loop's variable would have to be boxed to hold.
    static FloatVector zeros() {
        return FloatVector.zero(F);
    }

    static void storeZeros(long at) {
        ZERO.intoMemorySegment(ALL, at, ORDER);
    }

    static FloatVector all(float x) {
        return FloatVector.broadcast(F, x);
    }

    /// e to the x for x ≤ 88.3, within 2 units in the last place; 0 below −87.3 and NaN for NaN.
    static FloatVector expOfSmall(FloatVector x) {
        return normalExp(x).blend(ZERO, x.compare(VectorOperators.LT, EXP_LOW));
    }

    // e to the x for x in −87.3 … 88.3, or NaN.
    private static FloatVector normalExp(FloatVector x) {
        FloatVector shifted = x.lanewise(VectorOperators.FMA, LOG2_E, ROUNDER);
        FloatVector whole = shifted.lanewise(VectorOperators.SUB, ROUNDER);
        FloatVector r = whole.lanewise(VectorOperators.FMA, LN2_HIGH, x);
        r = whole.lanewise(VectorOperators.FMA, LN2_LOW, r);
        // Taylor's series: |r| ≤ ln 2 / 2, so that the next term is below 2⁻²⁷.
        FloatVector p = r.lanewise(VectorOperators.FMA, C7, C6);
        p = p.lanewise(VectorOperators.FMA, r, C5);
        p = p.lanewise(VectorOperators.FMA, r, C4);
        p = p.lanewise(VectorOperators.FMA, r, C3);
        p = p.lanewise(VectorOperators.FMA, r, C2);
        p = p.lanewise(VectorOperators.FMA, r, ONE);
        p = p.lanewise(VectorOperators.FMA, r, ONE);
        // The shift leaves of `shifted` only the whole number, in the place of the exponent.
        FloatVector power = shifted.reinterpretAsInts()
                .lanewise(VectorOperators.LSHL, 23)
                .lanewise(VectorOperators.ADD, EXPONENT_OF_ONE)
                .reinterpretAsFloats();
        return p.lanewise(VectorOperators.MUL, power);
    }

    /// e to the x, as [#expOfSmall], and infinite above 88.3.
    static FloatVector exp(FloatVector x) {
        return expOfSmall(x).blend(INFINITY, x.compare(VectorOperators.GT, EXP_HIGH));
    }

    /// 1 / (1 + e to the −x); where x < −87.3, as for −87.3.
    static FloatVector sigmoid(FloatVector x) {
        FloatVector e = normalExp(x.lanewise(VectorOperators.MAX, EXP_LOW).lanewise(VectorOperators.MIN, EXP_HIGH));
        return e.lanewise(VectorOperators.DIV, e.lanewise(VectorOperators.ADD, ONE));
    }

    private static IntVector ints(int x) {
        return IntVector.broadcast(I, x);
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
