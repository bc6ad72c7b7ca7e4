package troika.cpu;

import static troika.cpu.Vectors.LANES;

import java.util.function.IntConsumer;
import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#rmsNorm].
final class RmsNorm {
    // The rows are divided into at most this many chunks, each with a partial sum of the weight's gradient.
    private static final int CHUNKS = 64;
    private static final int COLUMNS = 1024;

    private RmsNorm() {}

    static Runnable forward(Workers workers, Tensor x, Tensor weight, float epsilon, Tensor out, Tensor rstd) {
        boolean bf16 = Tasks.isBf16(x);
        Tasks.requireF32(rstd, "rstd");
        long xAddress = x.address();
        long weightAddress = weight.address();
        long outAddress = out.address();
        long rstdAddress = rstd.address();
        int columns = Math.toIntExact(x.columns());
        long rowBytes = (long) columns * x.dtype().bytes();
        return Tasks.overRows(workers, x, (from, to) -> {
            for (int t = from; t < to; t++) {
                long xRow = xAddress + t * rowBytes;
                double mean = (double) sumSquares(bf16, xRow, columns) / columns;
                float scale = (float) (1 / Math.sqrt(mean + epsilon));
                Vectors.putF32(rstdAddress + 4L * t, scale);
                normalize(bf16, xRow, weightAddress, scale, outAddress + t * rowBytes, columns);
            }
        });
    }

    private static float sumSquares(boolean bf16, long x, int n) {
        FloatVector sum0 = Vectors.zeros();
        FloatVector sum1 = Vectors.zeros();
        int i = 0;
        for (; i <= n - 2 * LANES; i += 2 * LANES) {
            FloatVector x0 = Vectors.load(bf16, x, i);
            FloatVector x1 = Vectors.load(bf16, x, i + LANES);
            sum0 = x0.fma(x0, sum0);
            sum1 = x1.fma(x1, sum1);
        }
        for (; i < n; i += LANES) {
            FloatVector x0 = Vectors.load(bf16, x, i, Math.min(LANES, n - i));
            sum0 = x0.fma(x0, sum0);
        }
        return Vectors.sum(sum0.add(sum1));
    }

    private static void normalize(boolean bf16, long x, long weight, float scale, long out, int n) {
        int i = 0;
        for (; i <= n - LANES; i += LANES) {
            FloatVector v = Vectors.load(bf16, x, i).mul(scale).mul(Vectors.load(bf16, weight, i));
            Vectors.store(bf16, out, i, LANES, v);
        }
        if (i < n) {
            FloatVector v = Vectors.load(bf16, x, i, n - i).mul(scale).mul(Vectors.load(bf16, weight, i, n - i));
            Vectors.store(bf16, out, i, n - i, v);
        }
    }

    static Runnable backward(
            Workers workers,
            Tensor gradOut,
            Tensor x,
            Tensor weight,
            Tensor rstd,
            @Nullable Tensor residual,
            Tensor gradX,
            Tensor gradWeight,
            boolean accumulate,
            Tensor workspace) {
        boolean bf16 = Tasks.isBf16(x);
        Tasks.requireF32(rstd, "rstd");
        Tasks.requireF32(gradWeight, "gradWeight");
        int rows = Math.toIntExact(x.rows());
        int columns = Math.toIntExact(x.columns());
        int each = Tasks.rows(rows, columns, CHUNKS);
        int chunks = Tasks.count(rows, each);
        Tasks.requireWorkspace(workspace, 4L * chunks * columns);
        long gradOutAddress = gradOut.address();
        long xAddress = x.address();
        long weightAddress = weight.address();
        long rstdAddress = rstd.address();
        boolean hasResidual = residual != null;
        long residualAddress = residual != null ? residual.address() : 0;
        long gradXAddress = gradX.address();
        long gradWeightAddress = gradWeight.address();
        long partials = workspace.address();
        long rowBytes = (long) columns * x.dtype().bytes();
        IntConsumer rowsTask = chunk -> {
            long partial = partials + 4L * chunk * columns;
            MemoryOps.zero(partial, 4L * columns);
            for (int t = chunk * each; t < Math.min(rows, (chunk + 1) * each); t++) {
                long offset = t * rowBytes;
                long gradRow = gradOutAddress + offset;
                long xRow = xAddress + offset;
                float scale = Vectors.getF32(rstdAddress + 4L * t);
                float dot = dot(bf16, gradRow, xRow, weightAddress, columns);
                float shrink = (float) ((double) scale * scale * scale * dot / columns);
                if (hasResidual) {
                    long residualRow = residualAddress + offset;
                    long to = gradXAddress + offset;
                    gradientPast(bf16, gradRow, xRow, weightAddress, scale, shrink, residualRow, to, partial, columns);
                } else {
                    gradient(
                            bf16, gradRow, xRow, weightAddress, scale, shrink, gradXAddress + offset, partial, columns);
                }
            }
        };
        int columnTasks = Tasks.count(columns, COLUMNS);
        IntConsumer columnsTask = task -> {
            int to = Math.min(columns, (task + 1) * COLUMNS);
            combine(partials, chunks, columns, task * COLUMNS, to, gradWeightAddress, accumulate);
        };
        return () -> {
            workers.parallel(chunks, rowsTask);
            workers.parallel(columnTasks, columnsTask);
        };
    }

    // Σ weight · gradOut · x
    private static float dot(boolean bf16, long gradOut, long x, long weight, int n) {
        FloatVector sum0 = Vectors.zeros();
        FloatVector sum1 = Vectors.zeros();
        int i = 0;
        for (; i <= n - 2 * LANES; i += 2 * LANES) {
            int j = i + LANES;
            FloatVector g0 = Vectors.load(bf16, gradOut, i).mul(Vectors.load(bf16, weight, i));
            FloatVector g1 = Vectors.load(bf16, gradOut, j).mul(Vectors.load(bf16, weight, j));
            sum0 = g0.fma(Vectors.load(bf16, x, i), sum0);
            sum1 = g1.fma(Vectors.load(bf16, x, j), sum1);
        }
        for (; i < n; i += LANES) {
            int count = Math.min(LANES, n - i);
            FloatVector g = Vectors.load(bf16, gradOut, i, count).mul(Vectors.load(bf16, weight, i, count));
            sum0 = g.fma(Vectors.load(bf16, x, i, count), sum0);
        }
        return Vectors.sum(sum0.add(sum1));
    }

    private static void gradient(
            boolean bf16,
            long gradOut,
            long x,
            long weight,
            float scale,
            float shrink,
            long gradX,
            long gradWeight,
            int n) {
        for (int i = 0; i < n; i += LANES) {
            int count = Math.min(LANES, n - i);
            FloatVector g = Vectors.load(bf16, gradOut, i, count).mul(scale);
            FloatVector v = Vectors.load(bf16, x, i, count);
            long at = gradWeight + 4L * i;
            Vectors.storeF32(at, count, g.fma(v, Vectors.loadF32(at, count)));
            FloatVector grad = g.mul(Vectors.load(bf16, weight, i, count)).sub(v.mul(shrink));
            Vectors.store(bf16, gradX, i, count, grad);
        }
    }

    private static void gradientPast(
            boolean bf16,
            long gradOut,
            long x,
            long weight,
            float scale,
            float shrink,
            long residual,
            long gradX,
            long gradWeight,
            int n) {
        for (int i = 0; i < n; i += LANES) {
            int count = Math.min(LANES, n - i);
            FloatVector g = Vectors.load(bf16, gradOut, i, count).mul(scale);
            FloatVector v = Vectors.load(bf16, x, i, count);
            long at = gradWeight + 4L * i;
            Vectors.storeF32(at, count, g.fma(v, Vectors.loadF32(at, count)));
            FloatVector grad = g.mul(Vectors.load(bf16, weight, i, count)).sub(v.mul(shrink));
            Vectors.store(bf16, gradX, i, count, grad.add(Vectors.load(bf16, residual, i, count)));
        }
    }

    // gradWeight (+)= the chunks' sums, in their order.
    private static void combine(
            long partials, int chunks, int columns, int from, int to, long gradWeight, boolean accumulate) {
        for (int i = from; i < to; i += LANES) {
            int count = Math.min(LANES, to - i);
            long at = gradWeight + 4L * i;
            FloatVector sum = Vectors.zeros();
            for (int chunk = 0; chunk < chunks; chunk++) {
                sum = sum.add(Vectors.loadF32(partials + 4L * ((long) chunk * columns + i), count));
            }
            Vectors.storeF32(at, count, accumulate ? sum.add(Vectors.loadF32(at, count)) : sum);
        }
    }
}
