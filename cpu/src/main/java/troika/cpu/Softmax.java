package troika.cpu;

import static troika.cpu.Vectors.LANES;
import static troika.ffi.NativeMemory.ALL;

import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.ShortVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;

/// Rows of attention scores as vectors. Rows are padded, so that whole vectors can be read and written to their end.
final class Softmax {
    static final double LOG2_E = 1 / Math.log(2);

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final VectorSpecies<Short> S =
            VectorSpecies.of(short.class, VectorShape.forBitSize(Vectors.F.vectorBitSize() / 2));
    private static final float ROUNDER = 0x1.8p23f;
    private static final float LOWEST = -126;

    // The polynomial of 2 to the r, |r| ≤ 1/2, with the least relative error: below 10⁻⁷, and none at 0.
    private static final float C1 = (float) 0.69314697759;
    private static final float C2 = (float) 0.24022242079;
    private static final float C3 = (float) 0.05550733752;
    private static final float C4 = (float) 0.00967151295;
    private static final float C5 = (float) 0.00132647246;

    private Softmax() {}

    /// 2 to the x, for x ≤ 0; exactly 0 below −126. NaN stays NaN.
    static FloatVector exp2Lanes(FloatVector x) {
        VectorMask<Float> small = x.compare(VectorOperators.LT, LOWEST);
        FloatVector in = x.blend(LOWEST, small);
        FloatVector shifted = in.add(ROUNDER);
        FloatVector r = in.sub(shifted.sub(ROUNDER));
        FloatVector p = r.fma(Vectors.all(C5), Vectors.all(C4));
        p = p.fma(r, Vectors.all(C3));
        p = p.fma(r, Vectors.all(C2));
        p = p.fma(r, Vectors.all(C1));
        p = p.fma(r, Vectors.all(1));
        // The rounder's own bits are shifted out, which leaves the whole part as an exponent to add.
        IntVector bits = p.reinterpretAsInts().add(shifted.reinterpretAsInts().lanewise(VectorOperators.LSHL, 23));
        return bits.reinterpretAsFloats().blend(0, small);
    }

    /// Hides the scores next to `begin` … `end` − 1 that lie in the same vectors, so that those need no masks, which
    /// are slow. Overwrites up to a vector before and after the row, which is scratch memory too.
    static void hideAround(long score, int begin, int end) {
        FloatVector hidden = Vectors.all(Float.NEGATIVE_INFINITY);
        if (begin % LANES != 0) {
            hidden.intoMemorySegment(ALL, score + 4L * (begin - LANES), ORDER);
        }
        hidden.intoMemorySegment(ALL, score + 4L * end, ORDER);
    }

    /// The largest of the scores in the vectors from `from`, a multiple of LANES, to before `to`; a NaN may be ignored,
    /// as the exponentials will show it.
    static float maxRow(long score, int from, int to) {
        // By comparing and blending: FloatVector.max cares for NaNs and signs of zeros, in many instructions.
        FloatVector max0 = scoreLanes(score, from);
        FloatVector max1 = max0;
        int i = from + LANES;
        for (; i < to - LANES; i += 2 * LANES) {
            FloatVector s0 = scoreLanes(score, i);
            FloatVector s1 = scoreLanes(score, i + LANES);
            max0 = max0.blend(s0, s0.compare(VectorOperators.GT, max0));
            max1 = max1.blend(s1, s1.compare(VectorOperators.GT, max1));
        }
        if (i < to) {
            FloatVector s0 = scoreLanes(score, i);
            max0 = max0.blend(s0, s0.compare(VectorOperators.GT, max0));
        }
        max0 = max0.blend(max1, max1.compare(VectorOperators.GT, max0));
        return Vectors.max(max0);
    }

    private static FloatVector scoreLanes(long score, int i) {
        return FloatVector.fromMemorySegment(Vectors.F, ALL, score + 4L * i, ORDER);
    }

    /// Stores 2 to the (scale · score − max) for the vectors from `from`, a multiple of LANES, to before `to`; returns
    /// the sum of them. Overwrites some of the scores.
    static float exponentialsRow(boolean bf16, long score, int from, int to, float scale, float max, long out) {
        FloatVector sum = Vectors.zeros();
        FloatVector factor = Vectors.all(scale);
        FloatVector shift = Vectors.all(-max);
        for (int i = from; i < to; i += LANES) {
            FloatVector p = exp2Lanes(FloatVector.fromMemorySegment(Vectors.F, ALL, score + 4L * i, ORDER)
                    .fma(factor, shift));
            sum = sum.add(p);
            storeLanes(bf16, out, i, p);
        }
        sum.intoMemorySegment(ALL, score + 4L * from, ORDER);
        return sum(score + 4L * from);
    }

    // The sum of one vector in memory, in a fixed order. Through memory, so that no vector is handed to a call.
    private static float sum(long at) {
        float even = 0;
        float odd = 0;
        for (int i = 0; i < LANES; i += 2) {
            even += Vectors.getF32(at + 4L * i);
            odd += Vectors.getF32(at + 4L * i + 4);
        }
        return even + odd;
    }

    /// The backward of a row: probabilities again, and the scores' gradients p · (gradP − delta) · gradScale, for
    /// the vectors from `from`, a multiple of LANES, to before `to`.
    static void gradientsRow(
            boolean bf16,
            long score,
            long gradProbability,
            int from,
            int to,
            float scale,
            float logSumExp2,
            float delta,
            float gradScale,
            long probability,
            long gradScore) {
        FloatVector factor = Vectors.all(scale);
        FloatVector shift = Vectors.all(-logSumExp2);
        for (int i = from; i < to; i += LANES) {
            FloatVector p = exp2Lanes(FloatVector.fromMemorySegment(Vectors.F, ALL, score + 4L * i, ORDER)
                    .fma(factor, shift));
            FloatVector g = FloatVector.fromMemorySegment(Vectors.F, ALL, gradProbability + 4L * i, ORDER)
                    .sub(delta);
            storeLanes(bf16, probability, i, p);
            storeLanes(bf16, gradScore, i, g.mul(gradScale).mul(p));
        }
    }

    // As Vectors.store, but without its care for NaNs whose payload overflows: products do not make such.
    private static void storeLanes(boolean bf16, long address, int i, FloatVector v) {
        if (!bf16) {
            v.intoMemorySegment(ALL, address + 4L * i, ORDER);
            return;
        }
        IntVector bits = v.reinterpretAsInts();
        IntVector odd = bits.lanewise(VectorOperators.LSHR, 16).lanewise(VectorOperators.AND, 1);
        IntVector rounded = bits.add(0x7fff).add(odd).lanewise(VectorOperators.LSHR, 16);
        ShortVector shorts = (ShortVector) rounded.convertShape(VectorOperators.I2S, S, 0);
        shorts.intoMemorySegment(ALL, address + 2L * i, ORDER);
    }

    /// Zeroes the elements from `from` (rounded up to whole vectors) to before `to` (as well).
    static void zero(boolean bf16, long address, int from, int to) {
        for (int i = (from + LANES - 1) / LANES * LANES; i < to; i += LANES) {
            if (bf16) {
                ShortVector.zero(S).intoMemorySegment(ALL, address + 2L * i, ORDER);
            } else {
                Vectors.zeros().intoMemorySegment(ALL, address + 4L * i, ORDER);
            }
        }
    }

    /// out = factor · x, of `n` floats at `x`, to the compute dtype.
    static void scale(boolean bf16, long x, float factor, long out, int n) {
        int i = 0;
        // Written out here: a vector that is handed to a method which is not inlined is an object, and the compiler
        // does not inline a method that it has compiled into much code before.
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                IntVector bits = FloatVector.fromMemorySegment(Vectors.F, ALL, x + 4L * i, ORDER)
                        .mul(factor)
                        .reinterpretAsInts();
                IntVector odd = bits.lanewise(VectorOperators.LSHR, 16).lanewise(VectorOperators.AND, 1);
                IntVector rounded = bits.add(0x7fff).add(odd).lanewise(VectorOperators.LSHR, 16);
                ((ShortVector) rounded.convertShape(VectorOperators.I2S, S, 0))
                        .intoMemorySegment(ALL, out + 2L * i, ORDER);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                FloatVector.fromMemorySegment(Vectors.F, ALL, x + 4L * i, ORDER)
                        .mul(factor)
                        .intoMemorySegment(ALL, out + 4L * i, ORDER);
            }
        }
        for (; i < n; i++) {
            Vectors.put(bf16, out, i, Vectors.getF32(x + 4L * i) * factor);
        }
    }

    /// Σ a · b; `scratch` is the address of a vector's memory.
    static float dot(boolean bf16, long a, long b, int n, long scratch) {
        FloatVector sum = Vectors.zeros();
        for (int i = 0; i < n; i += LANES) {
            int count = Math.min(LANES, n - i);
            sum = Vectors.load(bf16, a, i, count).fma(Vectors.load(bf16, b, i, count), sum);
        }
        sum.intoMemorySegment(ALL, scratch, ORDER);
        return sum(scratch);
    }

    /// into += factor · x, of `n` floats at `into` and elements of the compute dtype at `x`.
    static void addScaled(boolean bf16, long x, float factor, long into, int n) {
        FloatVector f = Vectors.all(factor);
        for (int i = 0; i < n; i += LANES) {
            int count = Math.min(LANES, n - i);
            FloatVector sum = Vectors.load(bf16, x, i, count).fma(f, Vectors.loadF32(into + 4L * i, count));
            Vectors.storeF32(into + 4L * i, count, sum);
        }
    }
}
