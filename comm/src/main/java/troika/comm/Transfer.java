package troika.comm;

import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.MemorySegment;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import org.jspecify.annotations.Nullable;
import troika.tensor.Tensor;

/// The way from one rank to another: the sender offers a tensor and stays until the receiver has copied it.
final class Transfer {
    private enum State {
        FREE,
        OFFERED,
        COPYING,
        DONE,
        REFUSED
    }

    private final int from;
    private final int to;
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private State state = State.FREE;
    private @Nullable Tensor offer;
    private @Nullable String complaint;
    private @Nullable Throwable failure;

    Transfer(int from, int to) {
        this.from = from;
        this.to = to;
    }

    void send(Tensor tensor) {
        lock.lock();
        try {
            check();
            if (state != State.FREE) {
                throw new IllegalStateException("rank " + from + " sends to rank " + to + " on two streams at once");
            }
            offer = tensor;
            become(State.OFFERED);
            while (state == State.OFFERED) {
                check();
                changed.awaitUninterruptibly();
            }
            // From here an abort does not end the wait: the receiver reads the memory.
            while (state == State.COPYING) {
                changed.awaitUninterruptibly();
            }
            boolean refused = state == State.REFUSED;
            become(State.FREE);
            if (refused) {
                throw new IllegalStateException(complaint);
            }
        } finally {
            lock.unlock();
        }
    }

    void receive(Tensor tensor) {
        Tensor source;
        lock.lock();
        try {
            while (state != State.OFFERED) {
                check();
                changed.awaitUninterruptibly();
            }
            check();
            source = offer;
            if (source == null || source.dtype() != tensor.dtype() || source.elements() != tensor.elements()) {
                complaint = "rank " + from + " sends " + words(source) + " to rank " + to + ", which receives "
                        + words(tensor);
                become(State.REFUSED);
                throw new IllegalStateException(complaint);
            }
            become(State.COPYING);
        } finally {
            lock.unlock();
        }
        try {
            MemorySegment.copy(ALL, source.address(), ALL, tensor.address(), tensor.bytes());
        } finally {
            lock.lock();
            try {
                become(State.DONE);
            } finally {
                lock.unlock();
            }
        }
    }

    private static String words(@Nullable Tensor tensor) {
        return tensor == null ? "nothing" : tensor.dtype() + "" + tensor.shape();
    }

    private void become(State next) {
        state = next;
        changed.signalAll();
    }

    private void check() {
        if (failure != null) {
            throw Meeting.failed(failure);
        }
    }

    void abort(Throwable cause) {
        lock.lock();
        try {
            if (failure == null) {
                failure = cause;
            }
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }
}
