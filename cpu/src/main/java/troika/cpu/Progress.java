package troika.cpu;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import org.jspecify.annotations.Nullable;

/// A number that only grows, and threads that wait until it has grown enough: first spinning, then blocked. Nothing
/// here allocates.
final class Progress {
    private static final VarHandle VALUE;

    static {
        try {
            VALUE = MethodHandles.lookup().findVarHandle(Progress.class, "value", long.class);
        } catch (ReflectiveOperationException e) {
            throw new ExceptionInInitializerError(e);
        }
    }

    private final long spinNanos;

    @SuppressWarnings("unused") // written through VALUE
    private volatile long value;

    private volatile @Nullable Throwable failure;
    // Written with the lock held, read without: whoever advances takes the lock only where someone is blocked.
    private volatile int blocked;

    /// @param spinNanos how long a waiter spins before it gives its core away
    Progress(long spinNanos) {
        this.spinNanos = spinNanos;
    }

    long value() {
        return value;
    }

    /// What made this stop, or null.
    @Nullable
    Throwable failure() {
        return failure;
    }

    /// Adds 1 and returns the new value. Any thread may.
    long advance() {
        long now = (long) VALUE.getAndAdd(this, 1L) + 1;
        wake();
        return now;
    }

    /// Grows to `to`, unless beyond it already.
    void advanceTo(long to) {
        long now = value;
        while (now < to && !VALUE.compareAndSet(this, now, to)) {
            now = value;
        }
        wake();
    }

    /// The value will not grow any more, because of `cause`: all waits end. The first cause stays.
    void fail(Throwable cause) {
        if (failure == null) {
            failure = cause;
        }
        wake();
    }

    private void wake() {
        if (blocked > 0) {
            synchronized (this) {
                notifyAll();
            }
        }
    }

    /// Waits until the value is at least `target`, or this has failed. Interrupts do not end the wait, but stay set.
    void await(long target) {
        if (passed(target)) {
            return;
        }
        long start = System.nanoTime();
        do {
            for (int i = 0; i < 16; i++) {
                Thread.onSpinWait();
                if (passed(target)) {
                    return;
                }
            }
        } while (System.nanoTime() - start < spinNanos);
        block(target);
    }

    private synchronized void block(long target) {
        boolean interrupted = false;
        blocked = blocked + 1;
        while (!passed(target)) {
            try {
                wait();
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        blocked = blocked - 1;
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private boolean passed(long target) {
        return value >= target || failure != null;
    }
}
