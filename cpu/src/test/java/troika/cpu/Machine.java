package troika.cpu;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.CyclicBarrier;
import java.util.function.IntFunction;
import troika.cpu.MatMul.Addend;
import troika.cpu.MatMul.Layout;
import troika.ffi.NativeMemory;
import troika.tensor.DType;

/// Measures what a number of threads of this machine can do at best, by loops that share nothing with the kernels.
final class Machine {
    private static final int ROUNDS = 5;
    private static final double ROUND_SECONDS = 0.1;
    private static final int PRODUCT_SIZE = 2048;

    private final int threads;

    Machine(int threads) {
        this.threads = threads;
    }

    /// Bytes a second of the triad a = b + s · c over `workingSet` bytes, divided among the threads.
    double bandwidth(long workingSet) {
        int length = Math.toIntExact(Math.max(16, workingSet / threads / 3 / Float.BYTES));
        double rate = rate(_ -> {
            float[] a = new float[length];
            float[] b = new float[length];
            float[] c = new float[length];
            return () -> triad(a, b, c);
        });
        return rate * 3 * Float.BYTES * length;
    }

    /// Floating-point operations a second of large bf16 products by oneDNN, one on each thread.
    double flops() {
        long n = PRODUCT_SIZE;
        Layout rows = Layout.rows(DType.BF16, n);
        Layout transposed = Layout.transposed(DType.BF16, n);
        double rate = rate(_ -> {
            OneDnn.singleThreaded();
            MatMul product = MatMul.of(new MatMul.Key(n, n, n, rows, transposed, rows, Addend.NONE));
            long bytes = 2 * n * n;
            long memory = NativeMemory.allocate(3 * bytes);
            MatMul.Call call = new MatMul.Call(product, NativeMemory.allocate(Math.max(64, product.scratchBytes())));
            return () -> call.run(memory, memory + bytes, memory + 2 * bytes);
        });
        return rate * 2 * n * n * n;
    }

    private static void triad(float[] a, float[] b, float[] c) {
        for (int i = 0; i < a.length; i++) {
            a[i] = b[i] + 0.5f * c[i];
        }
    }

    /// Calls a second over all threads, each of which makes its own work and repeats it: the best of some rounds.
    private double rate(IntFunction<Runnable> work) {
        CyclicBarrier barrier = new CyclicBarrier(threads);
        double[][] rates = new double[threads][ROUNDS];
        List<Thread> all = new ArrayList<>();
        for (int t = 0; t < threads; t++) {
            int thread = t;
            all.add(Thread.ofPlatform().start(() -> {
                Runnable own = work.apply(thread);
                repeat(own, ROUND_SECONDS);
                for (int round = 0; round < ROUNDS; round++) {
                    await(barrier);
                    rates[thread][round] = repeat(own, ROUND_SECONDS);
                }
            }));
        }
        for (Thread thread : all) {
            try {
                thread.join();
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        }
        double best = 0;
        for (int round = 0; round < ROUNDS; round++) {
            double sum = 0;
            for (double[] own : rates) {
                sum += own[round];
            }
            best = Math.max(best, sum);
        }
        return best;
    }

    private static double repeat(Runnable work, double seconds) {
        long start = System.nanoTime();
        long calls = 0;
        double elapsed;
        do {
            work.run();
            calls++;
            elapsed = (System.nanoTime() - start) / 1e9;
        } while (elapsed < seconds);
        return calls / elapsed;
    }

    private static void await(CyclicBarrier barrier) {
        try {
            barrier.await();
        } catch (InterruptedException | BrokenBarrierException e) {
            throw new IllegalStateException(e);
        }
    }
}
