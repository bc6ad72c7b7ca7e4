package troika.cpu;

import java.util.concurrent.atomic.AtomicLongArray;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/// Helper threads that share the tasks of one caller at a time. Each thread has a range of the tasks that depends on
/// their number alone, so that it meets in one kernel the rows that it wrote into its cache in the last, and takes
/// tasks
/// of the others' ranges once its own is done.
final class CpuWorkers implements Workers, AutoCloseable {
    private static final long TASK_MASK = 0xffffffffL;
    /// Longs from one range's state to the next: two cache lines.
    private static final int SPACING = 16;

    private final int threads;
    private final Thread[] helpers;
    /// Rounds of tasks that were begun.
    private final Progress rounds;
    /// Tasks that were done, over all rounds.
    private final Progress done;
    /// Of each thread's range, the round in the upper half, the next task that nobody has taken in the lower: a helper
    /// that wakes up late cannot take a task of another round than it read the body of.
    private final AtomicLongArray next;

    private volatile IntConsumer body = task -> {};
    private volatile int tasks;
    private volatile @Nullable Throwable failure;
    private volatile boolean closed;

    /// @param threads the caller included
    /// @param spinNanos how long a helper without work spins before it sleeps
    CpuWorkers(String name, int threads, long spinNanos) {
        this.threads = threads;
        rounds = new Progress(spinNanos);
        done = new Progress(spinNanos);
        next = new AtomicLongArray((threads + 1) * SPACING);
        helpers = new Thread[threads - 1];
        for (int i = 0; i < helpers.length; i++) {
            int thread = i + 1;
            helpers[i] = Thread.ofPlatform()
                    .daemon()
                    .name(name + " worker " + thread)
                    .start(() -> help(thread));
        }
    }

    @Override
    public int threads() {
        return threads;
    }

    @Override
    public void parallel(int tasks, IntConsumer body) {
        if (tasks <= 1 || threads == 1) {
            for (int task = 0; task < tasks; task++) {
                body.accept(task);
            }
            return;
        }
        long round = rounds.value() + 1;
        long target = done.value() + tasks;
        // Nothing can be taken while the fields change: a helper still in the last round would take a task of none.
        for (int range = 0; range < threads; range++) {
            next.set(place(range), round << 32 | TASK_MASK);
        }
        this.body = body;
        this.tasks = tasks;
        for (int range = 0; range < threads; range++) {
            next.set(place(range), round << 32 | first(range, tasks));
        }
        rounds.advance();
        take(round, 0);
        done.await(target);
        Throwable cause = failure;
        if (cause != null) {
            failure = null;
            if (cause instanceof Error error) {
                throw error;
            }
            throw cause instanceof RuntimeException e ? e : new IllegalStateException(cause);
        }
    }

    private static int place(int range) {
        return (range + 1) * SPACING;
    }

    private int first(int range, int tasks) {
        return (int) ((long) range * tasks / threads);
    }

    private void help(int thread) {
        OneDnn.singleThreaded();
        long seen = 0;
        while (true) {
            rounds.await(seen + 1);
            if (closed) {
                return;
            }
            seen = rounds.value();
            take(seen, thread);
        }
    }

    private void take(long round, int thread) {
        for (int i = 0; i < threads; i++) {
            int range = thread + i < threads ? thread + i : thread + i - threads;
            takeOf(range, round);
        }
    }

    private void takeOf(int range, long round) {
        int place = place(range);
        while (true) {
            long state = next.get(place);
            int task = (int) (state & TASK_MASK);
            IntConsumer body = this.body;
            if (state >>> 32 != (round & TASK_MASK) || task < 0 || task >= first(range + 1, tasks)) {
                return;
            }
            // Taken only if nobody took it meanwhile; then this round is not over, and its body is what was read.
            if (next.compareAndSet(place, state, state + 1)) {
                try {
                    body.accept(task);
                } catch (Throwable e) {
                    failure = e;
                } finally {
                    done.advance();
                }
            }
        }
    }

    /// Ends the helpers; the caller is not inside [#parallel].
    @Override
    public void close() {
        closed = true;
        rounds.advance();
        for (Thread helper : helpers) {
            boolean interrupted = false;
            while (helper.isAlive()) {
                try {
                    helper.join();
                } catch (InterruptedException e) {
                    interrupted = true;
                }
            }
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }
}
