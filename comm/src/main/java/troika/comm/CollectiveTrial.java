package troika.comm;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import org.jspecify.annotations.Nullable;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Times a group's collectives in fp32, with nothing else under way.
public final class CollectiveTrial {
    private static final long BYTES = 32L << 20;
    private static final long SMALL_BYTES = 256;
    private static final int ROUNDS = 4;
    private static final int SMALL_ONES = 16;

    private final List<? extends Device> devices;
    private final List<? extends Communicator> communicators;
    /// By round and rank.
    private final long[][] large;

    private final long[][] small;
    private final AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();

    /// What was measured in the best of some rounds; a round lasts as long as its slowest rank.
    ///
    /// @param bytesPerSecond that a rank receives in an all-gather and a reduce-scatter of 32 MiB, as ZeRO has them
    /// for a group of parameters
    /// @param smallSeconds of a small all-reduce among several
    public record Rates(double bytesPerSecond, double smallSeconds) {}

    private CollectiveTrial(List<? extends Device> devices, List<? extends Communicator> communicators) {
        this.devices = devices;
        this.communicators = communicators;
        large = new long[ROUNDS][devices.size()];
        small = new long[ROUNDS][devices.size()];
    }

    /// Tries a group.
    ///
    /// @param devices by rank, at least two
    /// @param communicators by rank, at rest
    public static Rates run(List<? extends Device> devices, List<? extends Communicator> communicators) {
        CollectiveTrial trial = new CollectiveTrial(devices, communicators);
        trial.run();
        int ranks = devices.size();
        return new Rates(2e9 * BYTES * (ranks - 1) / ranks / best(trial.large), best(trial.small) * 1e-9 / SMALL_ONES);
    }

    private static long best(long[][] rounds) {
        long best = Long.MAX_VALUE;
        for (long[] round : rounds) {
            long slowest = 0;
            for (long rank : round) {
                slowest = Math.max(slowest, rank);
            }
            best = Math.min(best, slowest);
        }
        return best;
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
        Device device = devices.get(rank);
        Communicator communicator = communicators.get(rank);
        long elements = BYTES / DType.F32.bytes();
        int ranks = devices.size();
        long start = elements * rank / ranks;
        Shape part = Shape.of(elements * (rank + 1) / ranks - start);
        Memory memory = device.allocate("trial of collectives", 2 * BYTES);
        try (Stream lane = device.stream("trial of collectives", null)) {
            Tensor full = memory.tensor(0, DType.F32, Shape.of(elements));
            Tensor shard = memory.tensor(start * DType.F32.bytes(), DType.F32, part);
            Tensor sum = memory.tensor(BYTES, DType.F32, part);
            Tensor few = memory.tensor(0, DType.F32, Shape.of(SMALL_BYTES / DType.F32.bytes()));
            // The first round sets things up, and another is never the first to come.
            for (int round = -1; round < ROUNDS; round++) {
                lane.synchronize();
                long began = System.nanoTime();
                communicator.allGather(lane, shard, full);
                communicator.reduceScatter(lane, full, sum);
                lane.synchronize();
                long between = System.nanoTime();
                for (int i = 0; i < SMALL_ONES; i++) {
                    communicator.allReduce(lane, few);
                }
                lane.synchronize();
                if (round >= 0) {
                    large[round][rank] = between - began;
                    small[round][rank] = System.nanoTime() - between;
                }
            }
        } finally {
            device.free(memory);
        }
    }
}
