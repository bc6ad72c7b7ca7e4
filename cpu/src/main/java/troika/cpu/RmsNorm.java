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
        FloatVector sum = Vectors.zeros();
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                sum = addSquare(true, x, i, LANES, sum);
            }
            if (i < n) {
                sum = addSquare(true, x, i, n - i, sum);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                sum = addSquare(false, x, i, LANES, sum);
            }
            if (i < n) {
                sum = addSquare(false, x, i, n - i, sum);
            }
        }
        return Vectors.sum(sum);
    }

    private static FloatVector addSquare(boolean bf16, long x, int i, int count, FloatVector sum) {
        FloatVector v = Vectors.load(bf16, x, i, count);
        return v.fma(v, sum);
    }

    private static void normalize(boolean bf16, long x, long weight, float scale, long out, int n) {
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                normalize(true, x, weight, scale, out, i, LANES);
            }
            if (i < n) {
                normalize(true, x, weight, scale, out, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                normalize(false, x, weight, scale, out, i, LANES);
            }
            if (i < n) {
                normalize(false, x, weight, scale, out, i, n - i);
            }
        }
    }

    private static void normalize(boolean bf16, long x, long weight, float scale, long out, int i, int count) {
        FloatVector v = Vectors.load(bf16, x, i, count).mul(scale);
        Vectors.store(bf16, out, i, count, v.mul(Vectors.load(bf16, weight, i, count)));
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
        FloatVector sum = Vectors.zeros();
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                sum = addProduct(true, gradOut, x, weight, i, LANES, sum);
            }
            if (i < n) {
                sum = addProduct(true, gradOut, x, weight, i, n - i, sum);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                sum = addProduct(false, gradOut, x, weight, i, LANES, sum);
            }
            if (i < n) {
                sum = addProduct(false, gradOut, x, weight, i, n - i, sum);
            }
        }
        return Vectors.sum(sum);
    }

    private static FloatVector addProduct(
            boolean bf16, long gradOut, long x, long weight, int i, int count, FloatVector sum) {
        FloatVector g = Vectors.load(bf16, gradOut, i, count).mul(Vectors.load(bf16, weight, i, count));
        return g.fma(Vectors.load(bf16, x, i, count), sum);
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
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                gradient(true, gradOut, x, weight, scale, shrink, gradX, gradWeight, i, LANES);
            }
            if (i < n) {
                gradient(true, gradOut, x, weight, scale, shrink, gradX, gradWeight, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                gradient(false, gradOut, x, weight, scale, shrink, gradX, gradWeight, i, LANES);
            }
            if (i < n) {
                gradient(false, gradOut, x, weight, scale, shrink, gradX, gradWeight, i, n - i);
            }
        }
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
            int i,
            int count) {
        FloatVector g = Vectors.load(bf16, gradOut, i, count).mul(scale);
        FloatVector v = Vectors.load(bf16, x, i, count);
        long at = gradWeight + 4L * i;
        Vectors.storeF32(at, count, g.fma(v, Vectors.loadF32(at, count)));
        FloatVector grad = g.mul(Vectors.load(bf16, weight, i, count)).sub(v.mul(shrink));
        Vectors.store(bf16, gradX, i, count, grad);
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
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                gradientPast(true, gradOut, x, weight, scale, shrink, residual, gradX, gradWeight, i, LANES);
            }
            if (i < n) {
                gradientPast(true, gradOut, x, weight, scale, shrink, residual, gradX, gradWeight, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                gradientPast(false, gradOut, x, weight, scale, shrink, residual, gradX, gradWeight, i, LANES);
            }
            if (i < n) {
                gradientPast(false, gradOut, x, weight, scale, shrink, residual, gradX, gradWeight, i, n - i);
            }
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
            int i,
            int count) {
        FloatVector g = Vectors.load(bf16, gradOut, i, count).mul(scale);
        FloatVector v = Vectors.load(bf16, x, i, count);
        long at = gradWeight + 4L * i;
        Vectors.storeF32(at, count, g.fma(v, Vectors.loadF32(at, count)));
        FloatVector grad = g.mul(Vectors.load(bf16, weight, i, count)).sub(v.mul(shrink));
        Vectors.store(bf16, gradX, i, count, grad.add(Vectors.load(bf16, residual, i, count)));
    }

    // gradWeight (+)= the chunks' sums, in their order; those of the first chunk become the whole.
    private static void combine(
            long partials, int chunks, int columns, int from, int to, long gradWeight, boolean accumulate) {
        int n = to - from;
        long target = gradWeight + 4L * from;
        if (!accumulate) {
            MemoryOps.zero(target, 4L * n);
        }
        if (chunks > 0) {
            long sum = partials + 4L * from;
            for (int chunk = 1; chunk < chunks; chunk++) {
                MemoryOps.add(sum + 4L * chunk * columns, sum, n);
            }
            MemoryOps.add(sum, target, n);
        }
    }
}
