package troika.cuda;

import java.time.Duration;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// Where the threads of a group's ranks wait for one another while they issue work: never for a card.
///
/// What they wait for are numbers that only grow, read without the lock and changed under it.
final class Rendezvous {
    /// Waits mostly end within microseconds, which is less than it takes to fall asleep and be woken.
    private static final int SPINS = 2_000;

    private final int spins;
    private final Duration timeout;
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private final AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();

    /// @param ranks that may wait at a time
    /// @param timeout of each wait: longer than any rank may be busy with something else, such as a
    /// checkpoint
    Rendezvous(int ranks, Duration timeout) {
        spins = ranks < Runtime.getRuntime().availableProcessors() ? SPINS : 0;
        this.timeout = timeout;
    }

    /// Makes a change that others may wait for.
    void change(Runnable change) {
        lock.lock();
        try {
            check();
            change.run();
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }

    /// Waits for a change.
    ///
    /// @param missing what is waited for and for whom, to be told when it does not come in time
    void await(BooleanSupplier reached, Supplier<String> missing) {
        for (int i = 0; i < spins && failure.get() == null; i++) {
            if (reached.getAsBoolean()) {
                return;
            }
            Thread.onSpinWait();
        }
        long end = System.nanoTime() + timeout.toNanos();
        boolean interrupted = false;
        lock.lock();
        try {
            while (true) {
                // First: what has been reached is so for all ranks, also where one fails thereafter.
                if (reached.getAsBoolean()) {
                    return;
                }
                check();
                long left = end - System.nanoTime();
                if (left <= 0) {
                    throw new IllegalStateException(
                            missing.get() + ", which did not come within " + timeout.toSeconds() + " s");
                }
                try {
                    // Whether it was signalled is seen from what is waited for.
                    long _ = changed.awaitNanos(left);
                } catch (InterruptedException e) {
                    interrupted = true;
                }
            }
        } finally {
            lock.unlock();
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /// Makes all waits and changes, under way and to come, throw this cause, but for waits whose change has
    /// come; the first cause counts.
    void abort(Throwable cause) {
        failure.compareAndSet(null, cause);
        lock.lock();
        try {
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }

    /// Throws what aborted, if anything has.
    void check() {
        Throwable cause = failure.get();
        if (cause != null) {
            throw new IllegalStateException("another rank failed", cause);
        }
    }
}
