package troika.cuda;

import static org.junit.jupiter.api.Assumptions.abort;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import troika.comm.Communicator;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;
import troika.tensor.UserException;

/// Ranks that share card 0, each with a thread, for tests; or the cards of -Dtroika.test.cards=0,1,2, in turns.
final class CardGroup implements AutoCloseable {
    private static final long BALLAST_BYTES = 32L << 20;

    /// Which routes a group has.
    enum Ways {
        /// Ranks read each other's memory.
        DIRECT,
        /// Through pinned host memory.
        HOST,
        /// Rank 0 reads the others' memory and they its; between them over rank 0's card.
        STAR,
        /// Some of each.
        MIXED
    }

    final List<CudaDevice> devices = new ArrayList<>();
    final List<? extends Communicator> communicators;
    private final List<Memory> ballast = new ArrayList<>();
    private final ExecutorService threads;

    /// Skips the test, with the reason, where there is no card.
    ///
    /// @param ways as far as the cards have them; otherwise through the host
    CardGroup(int ranks, Ways ways) {
        this(ranks, ways, Exchange.FETCHED_BYTES);
    }

    /// As above.
    ///
    /// @param mostFetched the most bytes that are copied to a card and summed at once
    CardGroup(int ranks, Ways ways, long mostFetched) {
        String[] cards = System.getProperty("troika.test.cards", "0").split(",", -1);
        String specification = IntStream.range(0, ranks)
                .mapToObj(rank -> cards[rank % cards.length])
                .collect(Collectors.joining(","));
        try {
            new CudaDeviceProvider().open(specification, false).forEach(device -> devices.add((CudaDevice) device));
        } catch (UserException e) {
            abort("no card: " + e.getMessage());
        }
        devices.forEach(device -> ballast.add(device.allocate("ballast", BALLAST_BYTES)));
        threads = Executors.newFixedThreadPool(ranks);
        communicators = new CudaGroup(devices, routes(ways), mostFetched).ranks();
    }

    /// Another group of the same ranks.
    List<? extends Communicator> group(Ways ways) {
        return new CudaGroup(devices, routes(ways)).ranks();
    }

    Routes routes(Ways ways) {
        return Routes.of(size(), (a, b) -> switch (ways) {
            case DIRECT -> direct(a, b);
            case HOST -> Route.HOST;
            case STAR -> a == 0 ? direct(a, b) : over(0, a, b);
            case MIXED ->
                switch ((a + b) % 3) {
                    case 0 -> direct(a, b);
                    case 1 -> Route.HOST;
                    default -> over(a == 0 ? b == 1 ? 2 : 1 : 0, a, b);
                };
        });
    }

    private Route direct(int a, int b) {
        return CardPath.between(devices.get(a), devices.get(b)).direct() ? Route.DIRECT : Route.HOST;
    }

    private Route over(int hop, int a, int b) {
        boolean possible =
                hop < size() && direct(a, hop).direct() && direct(hop, b).direct();
        return possible ? Route.over(hop) : Route.HOST;
    }

    int size() {
        return devices.size();
    }

    Memory memory(int rank, long bytes) {
        return devices.get(rank).allocate("test of rank " + rank, bytes);
    }

    void free(int rank, Memory memory) {
        devices.get(rank).free(memory);
    }

    CudaStream stream(int rank, String name) {
        return (CudaStream) devices.get(rank).stream(name + " " + rank, null);
    }

    /// Keeps a stream busy for up to some hundred microseconds, so that ranks are at different places.
    void delay(int rank, CudaStream stream, int amount) {
        for (int i = 0; i < amount; i++) {
            Driver.memsetD8Async(ballast.get(rank).address(), (byte) i, BALLAST_BYTES, stream.handle());
        }
    }

    interface Work {
        void run(int rank) throws Exception;
    }

    /// Runs the same on all ranks' threads; the first failure aborts the group and is thrown.
    void run(Work work) throws Exception {
        List<Future<?>> running = new ArrayList<>();
        for (int i = 0; i < size(); i++) {
            int rank = i;
            running.add(threads.submit(() -> {
                try {
                    devices.get(rank).bind();
                    work.run(rank);
                } catch (Exception | AssertionError e) {
                    communicators.get(rank).abort(e);
                    throw e;
                }
                return null;
            }));
        }
        Throwable first = null;
        for (Future<?> future : running) {
            try {
                future.get(100, TimeUnit.SECONDS);
            } catch (ExecutionException e) {
                Throwable cause = e.getCause() == null ? e : e.getCause();
                if (first == null || "another rank failed".equals(first.getMessage())) {
                    first = cause;
                }
            } catch (TimeoutException e) {
                first = first == null ? e : first;
            }
        }
        if (first instanceof Error error) {
            throw error;
        }
        if (first != null) {
            throw (Exception) first;
        }
    }

    /// The elements of a memory from a byte on.
    static Tensor tensor(Memory memory, long offset, DType dtype, long elements) {
        return memory.tensor(offset, dtype, Shape.of(elements));
    }

    @Override
    public void close() {
        threads.shutdownNow();
        communicators.forEach(Communicator::close);
        devices.forEach(CudaDevice::close);
    }
}
