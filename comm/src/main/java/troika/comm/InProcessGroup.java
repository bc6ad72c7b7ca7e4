package troika.comm;

import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import troika.tensor.DType;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Ranks that are threads of one JVM and whose tensors lie in host memory.
///
/// A collective is a function on each rank's stream. The ranks publish their tensors and meet; then each
/// reads what it needs straight out of the others' memory; and they meet again before any of them goes on to
/// change it. An all-reduce is a reduce-scatter in place and an all-gather, the bandwidth-optimal pair
/// (Patarasu & Yuan 2009). Waiting threads sleep: there may be more ranks than cores.
public final class InProcessGroup {
    private final Rank[] ranks;
    private final Meeting meeting;
    /// By sender and receiver.
    private final Transfer[][] transfers;

    private enum Kind {
        ALL_REDUCE("an all-reduce"),
        REDUCE_SCATTER("a reduce-scatter"),
        ALL_GATHER("an all-gather");

        private final String words;

        Kind(String words) {
            this.words = words;
        }
    }

    private InProcessGroup(int size) {
        meeting = new Meeting(size);
        ranks = new Rank[size];
        transfers = new Transfer[size][size];
        for (int i = 0; i < size; i++) {
            ranks[i] = new Rank(i, size);
            for (int j = 0; j < size; j++) {
                transfers[i][j] = new Transfer(i, j);
            }
        }
    }

    /// The communicators of a new group, by rank.
    public static List<Communicator> create(int size) {
        return List.of(new InProcessGroup(size).ranks);
    }

    private final class Rank implements Communicator {
        private final int rank;
        private final AtomicLong received = new AtomicLong();
        /// Where the ranks' tensors are, in the collective under way.
        private final long[] addresses;

        // What this rank published for the collective under way. The meetings order these writes and the others' reads.
        private Kind kind = Kind.ALL_REDUCE;
        private DType dtype = DType.F32;
        private long address;
        private long part;
        private long full;

        Rank(int rank, int size) {
            this.rank = rank;
            addresses = new long[size];
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
            requireSummable(tensor);
            long n = tensor.elements();
            int bytes = tensor.dtype().bytes();
            stream.enqueue(() -> {
                publish(Kind.ALL_REDUCE, tensor, tensor.elements(), n);
                long start = n * rank / ranks.length;
                sum(tensor.dtype(), start, n * (rank + 1) / ranks.length - start, tensor.address() + bytes * start);
                meeting.leave();
                for (int other = 1; other < ranks.length; other++) {
                    int peer = (rank + other) % ranks.length;
                    long from = bytes * (n * peer / ranks.length);
                    long to = bytes * (n * (peer + 1) / ranks.length);
                    copy(peer, addresses[peer] + from, tensor.address() + from, to - from);
                }
                meeting.leave();
            });
        }

        @Override
        public void reduceScatter(Stream stream, Tensor full, Tensor shard) {
            requireSummable(full);
            requireShard(shard, full);
            stream.enqueue(() -> {
                publish(Kind.REDUCE_SCATTER, full, shard.elements(), full.elements());
                long start = 0;
                for (int i = 0; i < rank; i++) {
                    start += ranks[i].part;
                }
                sum(full.dtype(), start, shard.elements(), shard.address());
                meeting.leave();
            });
        }

        @Override
        public void allGather(Stream stream, Tensor shard, Tensor full) {
            requireShard(shard, full);
            int bytes = full.dtype().bytes();
            stream.enqueue(() -> {
                publish(Kind.ALL_GATHER, shard, shard.elements(), full.elements());
                long to = full.address();
                for (int i = 0; i < ranks.length; i++) {
                    copy(i, addresses[i], to, bytes * ranks[i].part);
                    to += bytes * ranks[i].part;
                }
                meeting.leave();
            });
        }

        @Override
        public void send(Stream stream, Tensor tensor, int peer) {
            Transfer transfer = transfers[rank][requirePeer(peer)];
            stream.enqueue(() -> transfer.send(tensor));
        }

        @Override
        public void receive(Stream stream, Tensor tensor, int peer) {
            Transfer transfer = transfers[requirePeer(peer)][rank];
            stream.enqueue(() -> {
                transfer.receive(tensor);
                count(peer, tensor.bytes());
            });
        }

        @Override
        public boolean capturable() {
            return true;
        }

        @Override
        public void abort(Throwable cause) {
            meeting.abort(cause);
            for (Transfer[] own : transfers) {
                for (Transfer transfer : own) {
                    transfer.abort(cause);
                }
            }
        }

        @Override
        public long bytesReceived() {
            return received.get();
        }

        @Override
        public void close() {}

        /// Publishes this rank's tensor and waits for the others'. All ranks see the same here, so where they do not
        /// fit together all fail, and none reads another's memory.
        private void publish(Kind kind, Tensor tensor, long part, long full) {
            this.kind = kind;
            this.dtype = tensor.dtype();
            this.address = tensor.address();
            this.part = part;
            this.full = full;
            meeting.enter();
            boolean fits = true;
            long parts = 0;
            for (Rank other : ranks) {
                fits &= other.kind == ranks[0].kind && other.dtype == ranks[0].dtype && other.full == ranks[0].full;
                parts += other.part;
                addresses[other.rank] = other.address;
            }
            if (!fits || (kind != Kind.ALL_REDUCE && parts != full)) {
                String complaint = Arrays.stream(ranks).map(Rank::words).collect(Collectors.joining("; "));
                // Others are still making their own complaint of what this rank published.
                meeting.leave();
                throw new IllegalStateException("the ranks of a collective do not fit together: " + complaint);
            }
        }

        private String words() {
            return "rank " + rank + " is in " + kind.words + " of " + full + " elements of " + dtype
                    + (kind == Kind.ALL_REDUCE ? "" : " with a shard of " + part);
        }

        private void sum(DType dtype, long start, long count, long target) {
            long bytes = count * dtype.bytes();
            if (ranks.length == 1) {
                copy(0, addresses[0], target, bytes);
            } else {
                Sums.sum(dtype, addresses, start, count, target);
                received.addAndGet(bytes * (ranks.length - 1));
            }
        }

        private void copy(int peer, long from, long to, long bytes) {
            if (from != to) {
                MemorySegment.copy(ALL, from, ALL, to, bytes);
            }
            count(peer, bytes);
        }

        private void count(int peer, long bytes) {
            if (peer != rank) {
                received.addAndGet(bytes);
            }
        }

        private int requirePeer(int peer) {
            if (peer < 0 || peer >= ranks.length) {
                throw new IllegalArgumentException(
                        "rank " + peer + " does not exist in a group of " + ranks.length + " ranks");
            }
            return peer;
        }

        private static void requireShard(Tensor shard, Tensor full) {
            if (shard.dtype() != full.dtype() || shard.elements() > full.elements()) {
                throw new IllegalArgumentException(
                        shard.dtype() + "" + shard.shape() + " is no shard of " + full.dtype() + full.shape());
            }
        }

        private static void requireSummable(Tensor tensor) {
            if (!tensor.dtype().isFloating()) {
                throw new IllegalArgumentException("there are no sums of " + tensor.dtype());
            }
        }
    }
}
