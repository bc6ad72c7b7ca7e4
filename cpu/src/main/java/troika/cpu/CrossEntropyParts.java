package troika.cpu;

import java.util.function.IntConsumer;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#crossEntropyPart] and [troika.tensor.Kernels#crossEntropyWhole].
final class CrossEntropyParts {
    /// Bytes of a row's part.
    private static final long PART = 12;

    private CrossEntropyParts() {}

    static Runnable part(Workers workers, Tensor logits, Tensor labels, long first, Tensor part) {
        boolean bf16 = Tasks.isBf16(logits);
        int rows = Math.toIntExact(labels.elements());
        int columns = Math.toIntExact(logits.columns());
        int each = Tasks.rows(rows, columns, Integer.MAX_VALUE);
        long logitAddress = logits.address();
        long labelAddress = labels.address();
        long partAddress = part.address();
        long rowBytes = (long) columns * logits.dtype().bytes();
        IntConsumer task = chunk -> {
            for (int t = chunk * each; t < Math.min(rows, (chunk + 1) * each); t++) {
                long row = logitAddress + t * rowBytes;
                long to = partAddress + t * PART;
                int label = Vectors.getI32(labelAddress, t);
                long column = label - first;
                float max = label < 0 ? 0 : CrossEntropy.maxRow(bf16, row, 0, columns);
                Vectors.putF32(to, max);
                Vectors.putF32(to + 4, label < 0 ? 0 : (float) sumExp(bf16, row, columns, max));
                Vectors.putF32(
                        to + 8,
                        label >= 0 && column >= 0 && column < columns
                                ? Vectors.get(bf16, row, (int) column)
                                : Float.NEGATIVE_INFINITY);
            }
        };
        int tasks = Tasks.count(rows, each);
        return () -> workers.parallel(tasks, task);
    }

    private static double sumExp(boolean bf16, long row, int n, float max) {
        double sum = 0;
        for (int from = 0; from < n; from += CrossEntropy.BLOCK) {
            sum += CrossEntropy.sumExpRow(bf16, row, from, Math.min(n, from + CrossEntropy.BLOCK), max);
        }
        return sum;
    }

    /// @param from the row of `parts` that the first row of logits has
    static Runnable whole(
            Workers workers,
            Tensor logits,
            Tensor labels,
            Tensor parts,
            long from,
            Tensor scale,
            long first,
            Tensor loss,
            boolean gradient,
            boolean accumulate,
            Tensor workspace) {
        boolean bf16 = Tasks.isBf16(logits);
        int rows = Math.toIntExact(labels.elements());
        int columns = Math.toIntExact(logits.columns());
        int ranks = Math.toIntExact(parts.shape().size(0));
        long rankBytes = parts.shape().size(1) * PART;
        int each = Tasks.rows(rows, columns, CrossEntropy.MOST_TASKS);
        int tasks = Tasks.count(rows, each);
        Tasks.requireWorkspace(workspace, 8L * tasks);
        long logitAddress = logits.address();
        long labelAddress = labels.address();
        long partAddress = parts.address() + from * PART;
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
                    long part = partAddress + t * PART;
                    float max = largest(part, rankBytes, ranks);
                    double exponentials = exponentials(part, rankBytes, ranks, max);
                    double logProbability = largest(part + 8, rankBytes, ranks) - (max + Math.log(exponentials));
                    sum -= logProbability;
                    if (gradient) {
                        CrossEntropy.softmaxRow(bf16, row, columns, max, (float) (factor / exponentials));
                        long column = label - first;
                        if (column >= 0 && column < columns) {
                            Vectors.put(bf16, row, (int) column, (float) (factor * Math.expm1(logProbability)));
                        }
                    }
                } else if (gradient) {
                    MemoryOps.zero(row, rowBytes);
                }
            }
            Vectors.putF64(partials, chunk, sum);
        };
        return () -> {
            workers.parallel(tasks, task);
            CrossEntropy.putLoss(partials, tasks, scaleAddress, lossAddress, accumulate);
        };
    }

    /// The largest of the ranks' numbers, a NaN among them being ignored.
    private static float largest(long at, long rankBytes, int ranks) {
        float largest = Float.NEGATIVE_INFINITY;
        for (int rank = 0; rank < ranks; rank++) {
            float x = Vectors.getF32(at + rank * rankBytes);
            largest = x > largest ? x : largest;
        }
        return largest;
    }

    /// The sum of e^(logit − max) over all ranks.
    private static double exponentials(long part, long rankBytes, int ranks, float max) {
        double sum = 0;
        for (int rank = 0; rank < ranks; rank++) {
            long at = part + rank * rankBytes;
            sum += Vectors.getF32(at + 4) * Math.exp((double) Vectors.getF32(at) - max);
        }
        return sum;
    }
}
