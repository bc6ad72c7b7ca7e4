package troika.cpu;

import static troika.cpu.Vectors.LANES;

import java.util.function.IntConsumer;
import jdk.incubator.vector.DoubleVector;
import jdk.incubator.vector.FloatVector;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#sumSquares], [troika.tensor.Kernels#clipFactor] and [troika.tensor.Kernels#adamw].
final class Optimizer {
    private static final int CHUNK = 1 << 16;
    private static final int MOST_CHUNKS = 1024;
    private static final int BLOCK = 512;
    private static final ThreadLocal<Unrounded> UNROUNDED = ThreadLocal.withInitial(
            () -> new Unrounded(new float[BLOCK + LANES], new float[BLOCK + LANES], new int[BLOCK + LANES]));

    private Optimizer() {}

    static Runnable sumSquares(Workers workers, Tensor x, Tensor out, boolean accumulate, Tensor workspace) {
        Tasks.requireF32(x, "x");
        Tasks.requireF32(out, "out");
        long n = x.elements();
        int each = Math.max(CHUNK, Tasks.count(n, MOST_CHUNKS));
        int chunks = Tasks.count(n, each);
        Tasks.requireWorkspace(workspace, 8L * chunks);
        long address = x.address();
        long outAddress = out.address();
        long partials = workspace.address();
        IntConsumer task = chunk -> {
            long from = (long) chunk * each;
            Vectors.putF64(partials, chunk, sumSquaresRow(address + 4 * from, (int) Math.min(each, n - from)));
        };
        return () -> {
            workers.parallel(chunks, task);
            double sum = accumulate ? Vectors.getF32(outAddress) : 0;
            for (int i = 0; i < chunks; i++) {
                sum += Vectors.getF64(partials, i);
            }
            Vectors.putF32(outAddress, (float) sum);
        };
    }

    private static double sumSquaresRow(long x, int n) {
        int step = Vectors.DOUBLES;
        DoubleVector sum0 = Vectors.zeroDoubles();
        DoubleVector sum1 = Vectors.zeroDoubles();
        DoubleVector sum2 = Vectors.zeroDoubles();
        DoubleVector sum3 = Vectors.zeroDoubles();
        int i = 0;
        for (; i <= n - 4 * step; i += 4 * step) {
            long at = x + 4L * i;
            sum0 = Vectors.addSquares(at, sum0);
            sum1 = Vectors.addSquares(at + 4L * step, sum1);
            sum2 = Vectors.addSquares(at + 8L * step, sum2);
            sum3 = Vectors.addSquares(at + 12L * step, sum3);
        }
        double sum = Vectors.sum(sum0.add(sum1).add(sum2.add(sum3)));
        for (; i < n; i++) {
            double value = Vectors.get(false, x, i);
            sum += value * value;
        }
        return sum;
    }

    static Runnable clipFactor(Tensor sumSquares, Tensor loss, Tensor unscale, float maxNorm, Tensor out) {
        long sumAddress = sumSquares.address();
        long lossAddress = loss.address();
        long unscaleAddress = unscale.address();
        long outAddress = out.address();
        return () -> {
            float scale = Vectors.getF32(unscaleAddress);
            float norm = (float) Math.sqrt(Vectors.getF32(sumAddress)) * scale;
            float factor = maxNorm == 0 ? scale : Math.min(1, maxNorm / (norm + 1e-6f)) * scale;
            boolean finite = Float.isFinite(norm) && Float.isFinite(Vectors.getF32(lossAddress));
            Vectors.putF32(outAddress, norm);
            Vectors.putF32(outAddress + 4, finite ? factor : Float.NaN);
        };
    }

    static Runnable adamw(
            Workers workers,
            Tensor master,
            Tensor moment1,
            Tensor moment2,
            Tensor gradient,
            Tensor weight,
            Tensor clip,
            Tensor scalars,
            long decayed,
            float beta1,
            float beta2,
            float epsilon,
            float weightDecay,
            long first) {
        Tasks.requireF32(master, "master");
        Tasks.requireF32(gradient, "gradient");
        boolean stochastic = Tasks.isBf16(moment1);
        boolean half = weight.dtype() == DType.F16;
        boolean bf16 = !half && Tasks.isBf16(weight);
        int momentBytes = moment1.dtype().bytes();
        int weightBytes = weight.dtype().bytes();
        long n = master.elements();
        long masterAddress = master.address();
        long moment1Address = moment1.address();
        long moment2Address = moment2.address();
        long gradientAddress = gradient.address();
        long weightAddress = weight.address();
        long clipAddress = clip.address();
        long scalarAddress = scalars.address();
        int each = CHUNK / 4;
        int tasks = Tasks.count(n, each);
        Coefficients coefficients = new Coefficients(beta1, 1 - beta1, beta2, 1 - beta2, epsilon);
        IntConsumer task = chunk -> {
            float factor = Vectors.getF32(clipAddress + 4);
            float rate = Vectors.getF32(scalarAddress);
            float stepSize = rate * Vectors.getF32(scalarAddress + 4);
            float correction = Vectors.getF32(scalarAddress + 8);
            long from = (long) chunk * each;
            int size = (int) Math.min(each, n - from);
            int decays = Math.clamp(decayed - from, 0, size);
            long p = masterAddress + 4 * from;
            long m = moment1Address + momentBytes * from;
            long v = moment2Address + momentBytes * from;
            long g = gradientAddress + 4 * from;
            long w = weightAddress + weightBytes * from;
            // What is rounded to F16 is rounded last.
            long stored = half ? p : w;
            float keep = 1 - rate * weightDecay;
            if (stochastic) {
                int seed = Vectors.getI32(scalarAddress, 3);
                long at = first + from;
                roundRow(
                        bf16,
                        p,
                        m,
                        v,
                        g,
                        stored,
                        0,
                        decays,
                        factor,
                        keep,
                        stepSize,
                        correction,
                        coefficients,
                        seed,
                        at);
                roundRow(
                        bf16,
                        p,
                        m,
                        v,
                        g,
                        stored,
                        decays,
                        size,
                        factor,
                        1,
                        stepSize,
                        correction,
                        coefficients,
                        seed,
                        at);
            } else {
                updateRow(bf16, p, m, v, g, stored, 0, decays, factor, keep, stepSize, correction, coefficients);
                updateRow(bf16, p, m, v, g, stored, decays, size, factor, 1, stepSize, correction, coefficients);
            }
            if (half) {
                Half.store(p, w, size);
            }
        };
        return () -> {
            if (!Float.isNaN(Vectors.getF32(clipAddress + 4))) {
                workers.parallel(tasks, task);
            }
        };
    }

    private record Coefficients(float beta1, float rest1, float beta2, float rest2, float epsilon) {}

    private static void updateRow(
            boolean bf16,
            long master,
            long moment1,
            long moment2,
            long gradient,
            long weight,
            int from,
            int to,
            float factor,
            float keep,
            float stepSize,
            float correction,
            Coefficients c) {
        int i = from;
        if (bf16) {
            for (; i <= to - LANES; i += LANES) {
                updateLanes(
                        true,
                        master,
                        moment1,
                        moment2,
                        gradient,
                        weight,
                        factor,
                        keep,
                        stepSize,
                        correction,
                        c,
                        i,
                        LANES);
            }
            if (i < to) {
                updateLanes(
                        true,
                        master,
                        moment1,
                        moment2,
                        gradient,
                        weight,
                        factor,
                        keep,
                        stepSize,
                        correction,
                        c,
                        i,
                        to - i);
            }
        } else {
            for (; i <= to - LANES; i += LANES) {
                updateLanes(
                        false,
                        master,
                        moment1,
                        moment2,
                        gradient,
                        weight,
                        factor,
                        keep,
                        stepSize,
                        correction,
                        c,
                        i,
                        LANES);
            }
            if (i < to) {
                updateLanes(
                        false,
                        master,
                        moment1,
                        moment2,
                        gradient,
                        weight,
                        factor,
                        keep,
                        stepSize,
                        correction,
                        c,
                        i,
                        to - i);
            }
        }
    }

    private static void updateLanes(
            boolean bf16,
            long master,
            long moment1,
            long moment2,
            long gradient,
            long weight,
            float factor,
            float keep,
            float stepSize,
            float correction,
            Coefficients c,
            int i,
            int count) {
        long at = 4L * i;
        FloatVector g = Vectors.loadF32(gradient + at, count).mul(factor);
        FloatVector m = Vectors.loadF32(moment1 + at, count).mul(c.beta1).add(g.mul(c.rest1));
        FloatVector v =
                Vectors.loadF32(moment2 + at, count).mul(c.beta2).add(g.mul(g).mul(c.rest2));
        FloatVector denominator = v.sqrt().mul(correction).add(c.epsilon);
        FloatVector p = Vectors.loadF32(master + at, count)
                .mul(keep)
                .sub(m.mul(stepSize).div(denominator));
        Vectors.storeF32(moment1 + at, count, m);
        Vectors.storeF32(moment2 + at, count, v);
        Vectors.storeF32(master + at, count, p);
        Vectors.store(bf16, weight, i, count, p);
    }

    /// What BF16 moments of a block are before they are rounded, and their random bits.
    private record Unrounded(float[] moment1, float[] moment2, int[] bits) {}

    // As updateRow, with moments in BF16 that are rounded stochastically, a block at a time: in one loop these are more
    // operations than the compiler takes without boxing vectors.
    private static void roundRow(
            boolean bf16,
            long master,
            long moment1,
            long moment2,
            long gradient,
            long weight,
            int from,
            int to,
            float factor,
            float keep,
            float stepSize,
            float correction,
            Coefficients c,
            int seed,
            long first) {
        Unrounded unrounded = UNROUNDED.get();
        for (int block = from; block < to; block += BLOCK) {
            int n = Math.min(BLOCK, to - block);
            long p = master + 4L * block;
            long g = gradient + 4L * block;
            long m = moment1 + 2L * block;
            long v = moment2 + 2L * block;
            int i = 0;
            for (; i <= n - LANES; i += LANES) {
                unroundedLanes(p, m, v, g, factor, keep, stepSize, correction, c, unrounded, i, LANES);
            }
            if (i < n) {
                unroundedLanes(p, m, v, g, factor, keep, stepSize, correction, c, unrounded, i, n - i);
            }
            Stochastic.fill(seed, first + block, n, unrounded.bits);
            Stochastic.round(unrounded.moment1, unrounded.bits, false, m, n);
            Stochastic.round(unrounded.moment2, unrounded.bits, true, v, n);
            if (weight != master) {
                storeRow(bf16, p, weight + (bf16 ? 2L : 4L) * block, n);
            }
        }
    }

    private static void unroundedLanes(
            long master,
            long moment1,
            long moment2,
            long gradient,
            float factor,
            float keep,
            float stepSize,
            float correction,
            Coefficients c,
            Unrounded unrounded,
            int i,
            int count) {
        long at = 4L * i;
        FloatVector g = Vectors.loadF32(gradient + at, count).mul(factor);
        FloatVector m = Vectors.load(true, moment1, i, count).mul(c.beta1).add(g.mul(c.rest1));
        FloatVector v =
                Vectors.load(true, moment2, i, count).mul(c.beta2).add(g.mul(g).mul(c.rest2));
        m.intoArray(unrounded.moment1, i);
        v.intoArray(unrounded.moment2, i);
        FloatVector denominator = v.sqrt().mul(correction).add(c.epsilon);
        FloatVector p = Vectors.loadF32(master + at, count)
                .mul(keep)
                .sub(m.mul(stepSize).div(denominator));
        Vectors.storeF32(master + at, count, p);
    }

    private static void storeRow(boolean bf16, long master, long weight, int n) {
        for (int i = 0; i < n; i += LANES) {
            int count = Math.min(LANES, n - i);
            Vectors.store(bf16, weight, i, count, Vectors.loadF32(master + 4L * i, count));
        }
    }
}
