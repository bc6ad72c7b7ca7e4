package troika.comm;

import java.util.concurrent.LinkedBlockingQueue;
import org.jspecify.annotations.Nullable;
import troika.tensor.Event;
import troika.tensor.Stream;

/// A stream that only runs functions, on a thread of its own.
final class TestStream implements Stream {
    private final LinkedBlockingQueue<Runnable> functions = new LinkedBlockingQueue<>();
    private final Thread thread = Thread.ofPlatform().daemon().start(this::run);
    private volatile boolean closed;
    private volatile @Nullable Throwable failure;

    private void run() {
        while (!closed) {
            try {
                functions.take().run();
            } catch (InterruptedException e) {
                return;
            }
        }
    }

    @Override
    public void enqueue(Runnable function) {
        functions.add(() -> {
            if (failure == null) {
                try {
                    function.run();
                } catch (RuntimeException e) {
                    failure = e;
                }
            }
        });
    }

    @Override
    public void synchronize() {
        Object done = new Object();
        boolean[] reached = new boolean[1];
        functions.add(() -> {
            synchronized (done) {
                reached[0] = true;
                done.notifyAll();
            }
        });
        synchronized (done) {
            while (!reached[0]) {
                try {
                    done.wait();
                } catch (InterruptedException e) {
                    throw new IllegalStateException(e);
                }
            }
        }
        Throwable cause = failure;
        if (cause != null) {
            throw new IllegalStateException(cause.getMessage(), cause);
        }
    }

    @Override
    public void close() {
        functions.add(() -> closed = true);
        try {
            thread.join();
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    @Override
    public void record(Event event) {
        throw new UnsupportedOperationException();
    }

    @Override
    public void await(Event event) {
        throw new UnsupportedOperationException();
    }

    @Override
    public void mark(int number) {
        throw new UnsupportedOperationException();
    }

    @Override
    public int marked() {
        return -1;
    }

    @Override
    public void beginCapture() {
        throw new UnsupportedOperationException();
    }

    @Override
    public Graph endCapture() {
        throw new UnsupportedOperationException();
    }

    @Override
    public void launch(Graph graph) {
        throw new UnsupportedOperationException();
    }
}
