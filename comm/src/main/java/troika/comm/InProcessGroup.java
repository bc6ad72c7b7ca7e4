package troika.comm;

import static java.lang.foreign.ValueLayout.JAVA_FLOAT_UNALIGNED;
import static java.nio.ByteOrder.nativeOrder;
import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorSpecies;
import org.jspecify.annotations.Nullable;
import troika.tensor.DType;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Ranks that are threads of one JVM and whose tensors lie in host memory.
///
/// A collective is a function on each rank's communication stream. The ranks publish their tensors
/// and meet; then each reads what it needs straight out of the others' memory; and they meet again
/// before any of them goes on to change it. An all-reduce is a reduce-scatter in place and an
/// all-gather, the bandwidth-optimal pair (Patarasu & Yuan 2009). Waiting threads sleep: there may
/// be more ranks than cores.
public final class InProcessGroup {
    private static final VectorSpecies<Float> SPECIES = FloatVector.SPECIES_PREFERRED;
    /// Elements summed at a time, so that the partial sum stays in the first-level cache.
    private static final long BLOCK = 2048;

    private final Rank[] ranks;
    private final AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition met = lock.newCondition();
    private int waiting;
    private long meeting;

    private InProcessGroup(int size) {
        ranks = new Rank[size];
        for (int i = 0; i < size; i++) {
            ranks[i] = new Rank(i);
        }
    }

    /// The communicators of a new group, by rank.
    public static List<Communicator> create(int size) {
        return new ArrayList<>(List.of(new InProcessGroup(size).ranks));
    }

    /// Waits until all ranks are here.
    private void meet() {
        lock.lock();
        try {
            check();
            long mine = meeting;
            if (++waiting == ranks.length) {
                waiting = 0;
                meeting++;
                met.signalAll();
                return;
            }
            while (meeting == mine) {
                met.awaitUninterruptibly();
                check();
            }
        } finally {
            lock.unlock();
        }
    }

    private void check() {
        Throwable cause = failure.get();
        if (cause != null) {
            throw new IllegalStateException("another rank failed", cause);
        }
    }

    private final class Rank implements Communicator {
        private final int rank;
        /// What this rank published for the collective under way.
        private volatile long address;
        private volatile long elements;
        private long received;

        Rank(int rank) {
            this.rank = rank;
        }

        @Override
        public int rank() {
            return rank;
        }

        @Override
        public int size() {
            return ranks.length;
        }

        @Override
        public void allReduce(Stream stream, Tensor tensor) {
            requireFloat(tensor);
            long n = tensor.elements();
            // Parts need not be equal here, so any n will do.
            long start = n * rank / ranks.length;
            long end = n * (rank + 1) / ranks.length;
            stream.enqueue(() -> {
                publish(tensor.address(), n);
                sum(start, end, tensor.address() + 4 * start);
                meet();
                for (int other = 1; other < ranks.length; other++) {
                    int peer = (rank + other) % ranks.length;
                    long from = n * peer / ranks.length;
                    long to = n * (peer + 1) / ranks.length;
                    copy(peer, ranks[peer].address + 4 * from, tensor.address() + 4 * from, 4 * (to - from));
                }
                meet();
            });
        }

        @Override
        public void reduceScatter(Stream stream, Tensor full, Tensor shard) {
            requireFloat(full);
            requireParts(shard, full);
            long n = shard.elements();
            stream.enqueue(() -> {
                publish(full.address(), full.elements());
                sum(rank * n, (rank + 1) * n, shard.address());
                meet();
            });
        }

        @Override
        public void allGather(Stream stream, Tensor shard, Tensor full) {
            requireParts(shard, full);
            long bytes = shard.bytes();
            stream.enqueue(() -> {
                publish(shard.address(), shard.elements());
                for (int i = 0; i < ranks.length; i++) {
                    long to = full.address() + i * bytes;
                    if (ranks[i].address != to) {
                        copy(i, ranks[i].address, to, bytes);
                    }
                }
                meet();
            });
        }

        @Override
        public void send(Stream stream, Tensor tensor, int peer) {
            throw new UnsupportedOperationException("send");
        }

        @Override
        public void receive(Stream stream, Tensor tensor, int peer) {
            throw new UnsupportedOperationException("receive");
        }

        @Override
        public boolean capturable() {
            return true;
        }

        @Override
        public void abort(Throwable cause) {
            failure.compareAndSet(null, cause);
            lock.lock();
            try {
                met.signalAll();
            } finally {
                lock.unlock();
            }
        }

        @Override
        public long bytesReceived() {
            return received;
        }

        @Override
        public void close() {}

        /// Publishes this rank's tensor and waits for the others'.
        private void publish(long address, long elements) {
            this.address = address;
            this.elements = elements;
            meet();
            for (Rank other : ranks) {
                if (other.elements != elements) {
                    throw new IllegalStateException("rank " + rank + " is in a collective of " + elements
                            + " elements, rank " + other.rank + " in one of " + other.elements);
                }
            }
        }

        /// Sums the ranks' elements start … end, in the order of ranks, to `target`.
        private void sum(long start, long end, long target) {
            for (long block = start; block < end; block += BLOCK) {
                long blockEnd = Math.min(end, block + BLOCK);
                long i = block;
                for (; i + SPECIES.length() <= blockEnd; i += SPECIES.length()) {
                    FloatVector total = load(ranks[0].address + 4 * i);
                    for (int r = 1; r < ranks.length; r++) {
                        total = total.add(load(ranks[r].address + 4 * i));
                    }
                    total.intoMemorySegment(ALL, target + 4 * (i - start), nativeOrder());
                }
                for (; i < blockEnd; i++) {
                    float total = ALL.get(JAVA_FLOAT_UNALIGNED, ranks[0].address + 4 * i);
                    for (int r = 1; r < ranks.length; r++) {
                        total += ALL.get(JAVA_FLOAT_UNALIGNED, ranks[r].address + 4 * i);
                    }
                    ALL.set(JAVA_FLOAT_UNALIGNED, target + 4 * (i - start), total);
                }
            }
            received += 4 * (end - start) * (ranks.length - 1);
        }

        private void copy(int peer, long from, long to, long bytes) {
            MemorySegment.copy(ALL, from, ALL, to, bytes);
            if (peer != rank) {
                received += bytes;
            }
        }

        private void requireParts(Tensor shard, Tensor full) {
            if (shard.dtype() != full.dtype() || shard.elements() * ranks.length != full.elements()) {
                throw new IllegalArgumentException(
                        shard.dtype() + "" + shard.shape() + " is no shard of " + full.dtype() + full.shape());
            }
        }

        private static void requireFloat(Tensor tensor) {
            if (tensor.dtype() != DType.F32) {
                throw new IllegalArgumentException("sums are made in F32, not in " + tensor.dtype());
            }
        }
    }

    private static FloatVector load(long address) {
        return FloatVector.fromMemorySegment(SPECIES, ALL, address, nativeOrder());
    }
}
