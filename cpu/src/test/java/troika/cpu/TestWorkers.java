package troika.cpu;

import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/// Workers for tests of kernels alone.
final class TestWorkers implements Workers, AutoCloseable {
    private final int threads;
    private final CyclicBarrier barrier;
    private final AtomicInteger next = new AtomicInteger();
    private volatile int tasks;
    private volatile @Nullable IntConsumer body;
    private volatile boolean closed;

    TestWorkers(int threads) {
        this.threads = threads;
        barrier = new CyclicBarrier(threads);
        for (int i = 1; i < threads; i++) {
            Thread.ofPlatform().daemon().start(this::serve);
        }
    }

    @Override
    public int threads() {
        return threads;
    }

    @Override
    public void parallel(int tasks, IntConsumer body) {
        this.tasks = tasks;
        this.body = body;
        next.set(0);
        await();
        work(body);
        await();
    }

    private void serve() {
        while (true) {
            await();
            IntConsumer current = body;
            if (closed || current == null) {
                return;
            }
            work(current);
            await();
        }
    }

    private void work(IntConsumer current) {
        for (int i = next.getAndIncrement(); i < tasks; i = next.getAndIncrement()) {
            current.accept(i);
        }
    }

    private void await() {
        try {
            if (threads > 1) {
                barrier.await();
            }
        } catch (InterruptedException | BrokenBarrierException e) {
            throw new IllegalStateException(e);
        }
    }

    @Override
    public void close() {
        closed = true;
        await();
    }
}
