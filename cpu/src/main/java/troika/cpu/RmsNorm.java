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
                double mean = (double) sumSquaresRow(bf16, xAddress + t * rowBytes, columns) / columns;
                Vectors.putF32(rstdAddress + 4L * t, (float) (1 / Math.sqrt(mean + epsilon)));
                // A row behind: while its sum is added up and its root drawn, the last is normalized.
                if (t > from) {
                    normalizeRow(bf16, xAddress, weightAddress, rstdAddress, outAddress, t - 1, rowBytes, columns);
                }
            }
            normalizeRow(bf16, xAddress, weightAddress, rstdAddress, outAddress, to - 1, rowBytes, columns);
        });
    }

    private static void normalizeRow(
            boolean bf16, long x, long weight, long rstd, long out, int row, long rowBytes, int n) {
        long offset = row * rowBytes;
        normalizeRow(bf16, x + offset, weight, Vectors.getF32(rstd + 4L * row), out + offset, n);
    }

    private static float sumSquaresRow(boolean bf16, long x, int n) {
        FloatVector sum = Vectors.zeros();
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                sum = squareLanes(true, x, i, LANES, sum);
            }
            if (i < n) {
                sum = squareLanes(true, x, i, n - i, sum);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                sum = squareLanes(false, x, i, LANES, sum);
            }
            if (i < n) {
                sum = squareLanes(false, x, i, n - i, sum);
            }
        }
        return Vectors.sum(sum);
    }

    private static FloatVector squareLanes(boolean bf16, long x, int i, int count, FloatVector sum) {
        FloatVector v = Vectors.load(bf16, x, i, count);
        return v.fma(v, sum);
    }

    private static void normalizeRow(boolean bf16, long x, long weight, float scale, long out, int n) {
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                normalizeLanes(true, x, weight, scale, out, i, LANES);
            }
            if (i < n) {
                normalizeLanes(true, x, weight, scale, out, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                normalizeLanes(false, x, weight, scale, out, i, LANES);
            }
            if (i < n) {
                normalizeLanes(false, x, weight, scale, out, i, n - i);
            }
        }
    }

    private static void normalizeLanes(boolean bf16, long x, long weight, float scale, long out, int i, int count) {
        FloatVector v = Vectors.load(bf16, x, i, count).mul(scale);
        Vectors.storeResult(bf16, out, i, count, v.mul(Vectors.load(bf16, weight, i, count)));
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
            @Nullable Tensor out,
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
        boolean again = out != null;
        long outAddress = out != null ? out.address() : 0;
        long gradXAddress = gradX.address();
        long gradWeightAddress = gradWeight.address();
        long partials = workspace.address();
        long rowBytes = (long) columns * x.dtype().bytes();
        IntConsumer rowsTask = chunk -> {
            long partial = partials + 4L * chunk * columns;
            MemoryOps.zero(partial, 4L * columns);
            int to = Math.min(rows, (chunk + 1) * each);
            float dot = dotRow(bf16, gradOutAddress, xAddress, weightAddress, chunk * each, rowBytes, columns);
            for (int t = chunk * each; t < to; t++) {
                long offset = t * rowBytes;
                float scale = Vectors.getF32(rstdAddress + 4L * t);
                float shrink = (float) ((double) -scale * scale * scale * dot / columns);
                // A row ahead: while its products are added up, this one's gradient is computed.
                if (t + 1 < to) {
                    dot = dotRow(bf16, gradOutAddress, xAddress, weightAddress, t + 1, rowBytes, columns);
                }
                if (again) {
                    normalizeRow(bf16, xAddress + offset, weightAddress, scale, outAddress + offset, columns);
                }
                long gradRow = gradOutAddress + offset;
                long xRow = xAddress + offset;
                long toRow = gradXAddress + offset;
                if (hasResidual) {
                    long residualRow = residualAddress + offset;
                    gradientPastRow(
                            bf16, gradRow, xRow, weightAddress, scale, shrink, residualRow, toRow, partial, columns);
                } else {
                    gradientRow(bf16, gradRow, xRow, weightAddress, scale, shrink, toRow, partial, columns);
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
    private static float dotRow(boolean bf16, long gradOuts, long xs, long weight, int row, long rowBytes, int n) {
        long gradOut = gradOuts + row * rowBytes;
        long x = xs + row * rowBytes;
        FloatVector sum = Vectors.zeros();
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                sum = productLanes(true, gradOut, x, weight, i, LANES, sum);
            }
            if (i < n) {
                sum = productLanes(true, gradOut, x, weight, i, n - i, sum);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                sum = productLanes(false, gradOut, x, weight, i, LANES, sum);
            }
            if (i < n) {
                sum = productLanes(false, gradOut, x, weight, i, n - i, sum);
            }
        }
        return Vectors.sum(sum);
    }

    private static FloatVector productLanes(
            boolean bf16, long gradOut, long x, long weight, int i, int count, FloatVector sum) {
        FloatVector g = Vectors.load(bf16, gradOut, i, count).mul(Vectors.load(bf16, weight, i, count));
        return g.fma(Vectors.load(bf16, x, i, count), sum);
    }

    private static void gradientRow(
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
                gradientLanes(true, gradOut, x, weight, scale, shrink, gradX, gradWeight, i, LANES);
            }
            if (i < n) {
                gradientLanes(true, gradOut, x, weight, scale, shrink, gradX, gradWeight, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                gradientLanes(false, gradOut, x, weight, scale, shrink, gradX, gradWeight, i, LANES);
            }
            if (i < n) {
                gradientLanes(false, gradOut, x, weight, scale, shrink, gradX, gradWeight, i, n - i);
            }
        }
    }

    private static void gradientLanes(
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
        FloatVector grad = g.fma(Vectors.load(bf16, weight, i, count), v.mul(shrink));
        Vectors.storeResult(bf16, gradX, i, count, grad);
    }

    private static void gradientPastRow(
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
                gradientPastLanes(true, gradOut, x, weight, scale, shrink, residual, gradX, gradWeight, i, LANES);
            }
            if (i < n) {
                gradientPastLanes(true, gradOut, x, weight, scale, shrink, residual, gradX, gradWeight, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                gradientPastLanes(false, gradOut, x, weight, scale, shrink, residual, gradX, gradWeight, i, LANES);
            }
            if (i < n) {
                gradientPastLanes(false, gradOut, x, weight, scale, shrink, residual, gradX, gradWeight, i, n - i);
            }
        }
    }

    private static void gradientPastLanes(
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
        FloatVector grad = g.fma(Vectors.load(bf16, weight, i, count), v.mul(shrink));
        Vectors.storeResult(bf16, gradX, i, count, grad.add(Vectors.load(bf16, residual, i, count)));
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
