package troika.comm;

import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import org.jspecify.annotations.Nullable;

/// Where threads wait for one another, again and again. Those who wait sleep: there may be more of them than
/// cores.
final class Meeting {
    private final int size;
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition met = lock.newCondition();
    private int waiting;
    private long count;
    private @Nullable Throwable failure;

    Meeting(int size) {
        this.size = size;
    }

    /// Waits until all are here, or fails because of an abort: then it fails for all.
    void enter() {
        lock.lock();
        try {
            if (failure != null) {
                throw failed(failure);
            }
            long mine = count;
            arrive();
            // Once all have met they go on together, abort or not.
            while (count == mine) {
                if (failure != null) {
                    throw failed(failure);
                }
                met.awaitUninterruptibly();
            }
        } finally {
            lock.unlock();
        }
    }

    /// Waits until all are here, who were together in [#enter]. An abort does not end it, since it must not end
    /// while others still read what this one would go on to change or to give back.
    void leave() {
        lock.lock();
        try {
            long mine = count;
            arrive();
            while (count == mine) {
                met.awaitUninterruptibly();
            }
        } finally {
            lock.unlock();
        }
    }

    private void arrive() {
        if (++waiting == size) {
            waiting = 0;
            count++;
            met.signalAll();
        }
    }

    void abort(Throwable cause) {
        lock.lock();
        try {
            if (failure == null) {
                failure = cause;
            }
            met.signalAll();
        } finally {
            lock.unlock();
        }
    }

    static IllegalStateException failed(Throwable cause) {
        return new IllegalStateException("another rank failed", cause);
    }
}
