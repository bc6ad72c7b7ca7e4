package troika.cpu;

import java.util.function.IntConsumer;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// How kernels divide their work: by the sizes of the tensors alone, so that results do not depend on threads.
final class Tasks {
    private static final int ELEMENTS = 16384;

    private Tasks() {}

    /// The rows of one task, so that a task has about 16 K elements and there are at most `most` tasks.
    static int rows(long rows, long columns, int most) {
        long byElements = Math.max(1, ELEMENTS / Math.max(1, columns));
        return Math.toIntExact(Math.max(byElements, count(rows, most)));
    }

    /// ⌈n / each⌉
    static int count(long n, long each) {
        return Math.toIntExact((n + each - 1) / each);
    }

    /// The parallel run of `body` over row ranges.
    static Runnable overRows(Workers workers, Tensor tensor, Rows body) {
        int rows = Math.toIntExact(tensor.rows());
        int each = rows(rows, tensor.columns(), Integer.MAX_VALUE);
        int tasks = count(rows, each);
        IntConsumer task = t -> body.run(t * each, Math.min(rows, (t + 1) * each));
        return () -> workers.parallel(tasks, task);
    }

    static boolean isBf16(Tensor tensor) {
        return switch (tensor.dtype()) {
            case BF16 -> true;
            case F32 -> false;
            case F16, I32 -> throw new IllegalArgumentException(tensor.dtype() + " is not a dtype of this kernel");
        };
    }

    static void require(boolean condition, String message) {
        if (!condition) {
            throw new IllegalArgumentException(message);
        }
    }

    static void requireF32(Tensor tensor, String name) {
        require(tensor.dtype() == DType.F32, name + " is " + tensor.dtype() + ", not F32");
    }

    static void requireWorkspace(Tensor workspace, long bytes) {
        require(
                workspace.bytes() >= bytes,
                "a workspace of " + workspace.bytes() + " bytes where a kernel needs " + bytes);
    }

    /// Work on the rows from `from` to before `to`.
    interface Rows {
        void run(int from, int to);
    }
}
