package troika.cpu;

import java.util.function.IntConsumer;

/// The fixed threads that share a rank's kernels.
interface Workers {
    /// The number of threads, the caller included.
    int threads();

    /// Runs `body` for 0 … tasks − 1, each once, on any of the threads, and returns when all are done. What a task
    /// computes
    /// must not depend on which thread runs it. Allocates nothing.
    void parallel(int tasks, IntConsumer body);
}
