package troika.cpu;

import static troika.cpu.Vectors.LANES;

import java.util.function.IntConsumer;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#crossEntropy].
final class CrossEntropy {
    // The softmax's maximum and sum are updated after each block of this many logits, which stay in the first cache.
    static final int BLOCK = 2048;
    static final int MOST_TASKS = 4096;

    private CrossEntropy() {}

    static Runnable run(
            Workers workers,
            Tensor logits,
            Tensor labels,
            Tensor scale,
            Tensor loss,
            boolean gradient,
            boolean accumulate,
            Tensor workspace) {
        boolean bf16 = Tasks.isBf16(logits);
        Tasks.requireF32(scale, "scale");
        Tasks.requireF32(loss, "loss");
        int rows = Math.toIntExact(logits.rows());
        int columns = Math.toIntExact(logits.columns());
        int each = Tasks.rows(rows, columns, MOST_TASKS);
        int tasks = Tasks.count(rows, each);
        Tasks.requireWorkspace(workspace, 8L * tasks);
        long logitAddress = logits.address();
        long labelAddress = labels.address();
        long scaleAddress = scale.address();
        long lossAddress = loss.address();
        long partials = workspace.address();
        long rowBytes = (long) columns * logits.dtype().bytes();
        IntConsumer task = chunk -> {
            float factor = Vectors.getF32(scaleAddress);
            double sum = 0;
            for (int t = chunk * each; t < Math.min(rows, (chunk + 1) * each); t++) {
                long row = logitAddress + t * rowBytes;
                int label = Vectors.getI32(labelAddress, t);
                if (label >= 0) {
                    sum += row(bf16, row, columns, label, factor, gradient);
                } else if (gradient) {
                    MemoryOps.zero(row, rowBytes);
                }
            }
            Vectors.putF64(partials, chunk, sum);
        };
        return () -> {
            workers.parallel(tasks, task);
            putLoss(partials, tasks, scaleAddress, lossAddress, accumulate);
        };
    }

    /// The loss of what all tasks have summed, in their order.
    static void putLoss(long partials, int tasks, long scale, long loss, boolean accumulate) {
        double sum = 0;
        for (int i = 0; i < tasks; i++) {
            sum += Vectors.getF64(partials, i);
        }
        double before = accumulate ? Vectors.getF32(loss) : 0;
        Vectors.putF32(loss, (float) (before + Vectors.getF32(scale) * sum));
    }

    private static double row(boolean bf16, long row, int n, int label, float factor, boolean gradient) {
        float max = Float.NEGATIVE_INFINITY;
        double sum = 0;
        for (int from = 0; from < n; from += BLOCK) {
            int to = Math.min(n, from + BLOCK);
            float blockMax = maxRow(bf16, row, from, to);
            if (blockMax > max) {
                sum *= Math.exp((double) max - blockMax);
                max = blockMax;
            }
            sum += sumExpRow(bf16, row, from, to, max);
        }
        double logProbability = Vectors.get(bf16, row, label) - (max + Math.log(sum));
        if (gradient) {
            softmaxRow(bf16, row, n, max, (float) (factor / sum));
            Vectors.put(bf16, row, label, (float) (factor * Math.expm1(logProbability)));
        }
        return -logProbability;
    }

    static float maxRow(boolean bf16, long row, int from, int to) {
        FloatVector max = Vectors.all(Float.NEGATIVE_INFINITY);
        int i = from;
        if (bf16) {
            for (; i <= to - LANES; i += LANES) {
                max = Vectors.max(max, logitsLanes(true, row, i, LANES));
            }
            if (i < to) {
                max = Vectors.max(max, logitsLanes(true, row, i, to - i));
            }
        } else {
            for (; i <= to - LANES; i += LANES) {
                max = Vectors.max(max, logitsLanes(false, row, i, LANES));
            }
            if (i < to) {
                max = Vectors.max(max, logitsLanes(false, row, i, to - i));
            }
        }
        return Vectors.max(max);
    }

    // Beyond the row's end: minus infinity.
    private static FloatVector logitsLanes(boolean bf16, long row, int i, int count) {
        return Vectors.loadOr(bf16, row, i, count, Float.NEGATIVE_INFINITY);
    }

    static float sumExpRow(boolean bf16, long row, int from, int to, float max) {
        FloatVector sum = Vectors.zeros();
        int i = from;
        if (bf16) {
            for (; i <= to - LANES; i += LANES) {
                sum = sum.add(expLanes(true, row, max, i, LANES));
            }
            if (i < to) {
                sum = sum.add(expLanes(true, row, max, i, to - i));
            }
        } else {
            for (; i <= to - LANES; i += LANES) {
                sum = sum.add(expLanes(false, row, max, i, LANES));
            }
            if (i < to) {
                sum = sum.add(expLanes(false, row, max, i, to - i));
            }
        }
        return Vectors.sum(sum);
    }

    // The product is NaN where a logit is not finite, also where it is minus infinity, which alone would not be seen.
    private static FloatVector expLanes(boolean bf16, long row, float max, int i, int count) {
        FloatVector x = Vectors.load(bf16, row, i, count);
        FloatVector orNothing = count == LANES ? x : logitsLanes(bf16, row, i, count);
        FloatVector e = Vectors.expOfSmall(orNothing.sub(max));
        return x.lanewise(VectorOperators.FMA, Vectors.zeros(), e);
    }

    static void softmaxRow(boolean bf16, long row, int n, float max, float factor) {
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                softmaxLanes(true, row, max, factor, i, LANES);
            }
            if (i < n) {
                softmaxLanes(true, row, max, factor, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                softmaxLanes(false, row, max, factor, i, LANES);
            }
            if (i < n) {
                softmaxLanes(false, row, max, factor, i, n - i);
            }
        }
    }

    private static void softmaxLanes(boolean bf16, long row, float max, float factor, int i, int count) {
        FloatVector x = Vectors.load(bf16, row, i, count);
        Vectors.storeResult(bf16, row, i, count, Vectors.expOfSmall(x.sub(max)).mul(factor));
    }
}
