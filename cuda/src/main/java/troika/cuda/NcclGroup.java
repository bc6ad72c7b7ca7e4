package troika.cuda;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongConsumer;
import troika.comm.Communicator;
import troika.tensor.DType;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Ranks on different cards, whose collectives are NCCL's, beside a [CudaGroup] for what NCCL does not do
/// as [Communicator] has it:
///
/// - Sums of 16-bit numbers, which NCCL rounds once a rank.
/// - Sends and receives. NCCL runs all that one of its communicators does in one order, so that a rank's
///   sends would wait for its receives, and it runs them in kernels, which take multiprocessors while they
///   wait.
///
/// NCCL's sums of F32 are not in the order of ranks; all ranks hold the same bits.
final class NcclGroup {
    private final List<Rank> ranks = new ArrayList<>();

    /// @param devices by rank, no card twice
    /// @param routes of what NCCL does not do
    NcclGroup(List<CudaDevice> devices, Routes routes) {
        CudaGroup own = new CudaGroup(devices, routes);
        long[] communicators;
        try {
            communicators =
                    Nccl.create(devices.stream().map(CudaDevice::ordinal).toList());
        } catch (CudaException | LinkageError e) {
            own.ranks().forEach(CudaGroup.Rank::close);
            throw e;
        }
        for (int i = 0; i < communicators.length; i++) {
            ranks.add(new Rank(own.ranks().get(i), devices.get(i), communicators[i]));
        }
    }

    List<Rank> ranks() {
        return ranks;
    }

    /// 22705 is 2.27.5; before 2.9, 2804 was 2.8.4.
    static String dotted(int version) {
        int major = version < 10_000 ? 1000 : 10_000;
        return version / major + "." + version % major / 100 + "." + version % 100;
    }

    private void abortAll(Throwable cause) {
        for (Rank rank : ranks) {
            rank.own.abort(cause);
        }
        for (Rank rank : ranks) {
            rank.end();
        }
    }

    /// A rank's end, used by its thread.
    final class Rank implements Communicator {
        private final CudaGroup.Rank own;
        private final CudaDevice device;
        /// NCCL's; 0 when it has ended.
        private final AtomicLong communicator;
        /// Held in NCCL's calls, so that none is in a communicator that ends.
        private final ReentrantLock calling = new ReentrantLock();

        private final AtomicLong received = new AtomicLong();
        private final Runnable closing = this::close;

        private Rank(CudaGroup.Rank own, CudaDevice device, long communicator) {
            this.own = own;
            this.device = device;
            this.communicator = new AtomicLong(communicator);
            device.closeBefore(closing);
        }

        @Override
        public int rank() {
            return own.rank();
        }

        @Override
        public int size() {
            return own.size();
        }

        @Override
        public void allReduce(Stream stream, Tensor tensor) {
            if (tensor.dtype() != DType.F32) {
                own.allReduce(stream, tensor);
                return;
            }
            long on = own.checked(stream, "allReduce").handle();
            call(nccl -> Nccl.allReduce(nccl, tensor.address(), tensor.address(), tensor.elements(), DType.F32, on));
            received.addAndGet(2 * tensor.bytes() * (size() - 1) / size());
        }

        @Override
        public void reduceScatter(Stream stream, Tensor full, Tensor shard) {
            if (full.dtype() != DType.F32) {
                own.reduceScatter(stream, full, shard);
                return;
            }
            long[] starts = own.starts(stream, "reduceScatter", full, shard);
            reduceScatter((CudaStream) stream, full, shard, starts, alike(starts));
        }

        /// @param alike whether all parts have one size
        void reduceScatter(CudaStream stream, Tensor full, Tensor shard, long[] starts, boolean alike) {
            long on = stream.handle();
            DType dtype = full.dtype();
            if (alike) {
                call(nccl -> Nccl.reduceScatter(nccl, full.address(), shard.address(), shard.elements(), dtype, on));
            } else {
                call(nccl -> Nccl.together(nccl, () -> {
                    for (int root = 0; root < size(); root++) {
                        long from = full.address() + starts[root] * dtype.bytes();
                        // Only the root's is written.
                        long to = root == rank() ? shard.address() : from;
                        Nccl.reduce(nccl, from, to, starts[root + 1] - starts[root], dtype, root, on);
                    }
                }));
            }
            received.addAndGet(shard.bytes() * (size() - 1));
        }

        @Override
        public void allGather(Stream stream, Tensor shard, Tensor full) {
            long[] starts = own.starts(stream, "allGather", full, shard);
            allGather((CudaStream) stream, shard, full, starts, alike(starts));
        }

        void allGather(CudaStream stream, Tensor shard, Tensor full, long[] starts, boolean alike) {
            long on = stream.handle();
            DType dtype = full.dtype();
            if (alike) {
                call(nccl -> Nccl.allGather(nccl, shard.address(), full.address(), shard.elements(), dtype, on));
            } else {
                call(nccl -> Nccl.together(nccl, () -> {
                    for (int root = 0; root < size(); root++) {
                        long to = full.address() + starts[root] * dtype.bytes();
                        long from = root == rank() ? shard.address() : to;
                        Nccl.broadcast(nccl, from, to, starts[root + 1] - starts[root], dtype, root, on);
                    }
                }));
            }
            received.addAndGet(full.bytes() - shard.bytes());
        }

        private static boolean alike(long[] starts) {
            for (int i = 2; i < starts.length; i++) {
                if (starts[i] - starts[i - 1] != starts[1] - starts[0]) {
                    return false;
                }
            }
            return true;
        }

        @Override
        public void send(Stream stream, Tensor tensor, int peer) {
            own.send(stream, tensor, peer);
        }

        @Override
        public void receive(Stream stream, Tensor tensor, int peer) {
            own.receive(stream, tensor, peer);
        }

        @Override
        public boolean capturable() {
            return false;
        }

        @Override
        public void abort(Throwable cause) {
            abortAll(cause);
        }

        /// Of NCCL's, what must at least be read.
        @Override
        public long bytesReceived() {
            return own.bytesReceived() + received.get();
        }

        private void call(LongConsumer nccl) {
            calling.lock();
            try {
                long present = communicator.get();
                if (present == 0) {
                    throw new IllegalStateException("rank " + rank() + "'s group has ended");
                }
                nccl.accept(present);
            } finally {
                calling.unlock();
            }
        }

        /// Any thread may end it. A call that does not return within a second waits for other ranks: NCCL lets it end
        /// then.
        private void end() {
            boolean locked = calling.tryLock();
            try {
                locked = locked || calling.tryLock(1, TimeUnit.SECONDS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            long present = communicator.getAndSet(0);
            if (present != 0) {
                device.release(() -> Nccl.abort(present));
            }
            if (locked) {
                calling.unlock();
            }
        }

        @Override
        public void close() {
            device.closedBefore(closing);
            end();
            own.close();
        }
    }
}
