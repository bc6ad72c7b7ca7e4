package troika.cuda;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import org.jspecify.annotations.Nullable;
import troika.comm.Communicator;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// Times a group's collectives: an all-gather and a reduce-scatter of fp32, as ZeRO has them for a group of
/// parameters, with nothing else under way.
final class CollectiveTrial {
    static final long BYTES = 32L << 20;
    private static final int ROUNDS = 4;

    private final List<CudaDevice> devices;
    private final List<? extends Communicator> communicators;
    private final long[][] nanos;
    private final AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();

    private CollectiveTrial(List<CudaDevice> devices, List<? extends Communicator> communicators) {
        this.devices = devices;
        this.communicators = communicators;
        nanos = new long[ROUNDS][devices.size()];
    }

    /// Bytes that a rank receives a second, in the best round; a round lasts as long as its slowest rank.
    ///
    /// @param devices by rank, at least two
    /// @param communicators by rank, at rest
    static double bytesPerSecond(List<CudaDevice> devices, List<? extends Communicator> communicators) {
        CollectiveTrial trial = new CollectiveTrial(devices, communicators);
        trial.run();
        long best = Long.MAX_VALUE;
        for (long[] round : trial.nanos) {
            long slowest = 0;
            for (long rank : round) {
                slowest = Math.max(slowest, rank);
            }
            best = Math.min(best, slowest);
        }
        int ranks = devices.size();
        return 2e9 * BYTES * (ranks - 1) / ranks / best;
    }

    private void run() {
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < devices.size(); i++) {
            int rank = i;
            threads.add(Thread.ofPlatform().name("trial of rank " + rank).start(() -> {
                try {
                    rank(rank);
                } catch (RuntimeException | Error e) {
                    failure.compareAndSet(null, e);
                    communicators.forEach(communicator -> communicator.abort(e));
                }
            }));
        }
        boolean interrupted = false;
        for (Thread thread : threads) {
            while (thread.isAlive()) {
                try {
                    thread.join();
                } catch (InterruptedException e) {
                    interrupted = true;
                }
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        switch (failure.get()) {
            case RuntimeException e -> throw e;
            case Error e -> throw e;
            case null, default -> {}
        }
    }

    private void rank(int rank) {
        CudaDevice device = devices.get(rank);
        device.bind();
        Communicator communicator = communicators.get(rank);
        long elements = BYTES / DType.F32.bytes();
        int ranks = devices.size();
        long start = elements * rank / ranks;
        Shape part = Shape.of(elements * (rank + 1) / ranks - start);
        Memory memory = device.allocate("trial of collectives", 2 * BYTES);
        try (CudaStream lane = (CudaStream) device.stream("trial of collectives", null)) {
            Tensor full = memory.tensor(0, DType.F32, Shape.of(elements));
            Tensor shard = memory.tensor(start * DType.F32.bytes(), DType.F32, part);
            Tensor sum = memory.tensor(BYTES, DType.F32, part);
            Driver.memsetD8Async(memory.address(), (byte) 0, 2 * BYTES, lane.handle());
            // The first round sets things up, and another is never the first to come.
            for (int round = -1; round < ROUNDS; round++) {
                lane.synchronize();
                long begin = System.nanoTime();
                communicator.allGather(lane, shard, full);
                communicator.reduceScatter(lane, full, sum);
                lane.synchronize();
                if (round >= 0) {
                    nanos[round][rank] = System.nanoTime() - begin;
                }
            }
        } finally {
            device.free(memory);
        }
    }
}
