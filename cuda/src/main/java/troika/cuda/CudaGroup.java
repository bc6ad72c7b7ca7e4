package troika.cuda;

import java.time.Duration;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;
import troika.comm.Communicator;
import troika.tensor.DType;
import troika.tensor.Stream;
import troika.tensor.Tensor;
import troika.tensor.UserException;

/// Ranks that are threads of one JVM and whose tensors lie on cards, or on the same card.
///
/// A collective is issued by each rank's thread: events and waits of its stream, copies, and a kernel that
/// sums in the order of ranks. The threads meet while they issue, so that a wait for another rank's event
/// comes behind its record; no thread waits for a card. Where all ranks read each other's memory (on one
/// card, or between cards that reach each other), a collective is:
///
/// 1. record `ready`: what comes before on the lane, and so what other lanes have produced for it, is done;
/// 2. publish addresses and sizes, and meet;
/// 3. wait for the peers' `ready`, and read their memory;
/// 4. record `done`, and meet;
/// 5. wait for the peers' `done`: what follows on the lane may overwrite what they have read.
///
/// Work of other lanes that overwrites it waits for the event that is recorded on the lane behind the
/// collective, and so for the same. Each rank has one event of a kind: `ready` is recorded anew by the next
/// collective, behind the second meeting, which the peers joined when they had issued their waits for it;
/// `done` behind the next collective's first meeting, likewise.
///
/// Since each wait is for something that was issued before it, by whichever thread, streams cannot wait for
/// each other in a circle, also where some share a hardware queue.
///
/// Otherwise collectives go through host memory: see [Staging]. Sends and receives are between two threads:
/// see [Channel].
final class CudaGroup {
    /// The most bytes that each rank sums whole: more is summed in parts, which takes another meeting.
    static final long SMALL_BYTES = 64 << 10;

    /// Of a wait for another rank's thread. Ranks work alike, but one may compile kernels or write a file.
    private static final Duration TIMEOUT = Duration.ofMinutes(20);
    /// Elements to whose multiples parts of an all-reduce are cut, so that they are aligned.
    private static final long GRAIN = 64;

    private final Rank[] ranks;
    private final Rendezvous rendezvous;
    private final Meeting meeting;
    private final Channel[][] channels;
    /// How collectives go: as between the two ranks that are least near.
    private final Transport.Link link;

    /// Makes a group.
    ///
    /// @param devices by rank
    CudaGroup(List<CudaDevice> devices) {
        int size = devices.size();
        requireSize(size);
        rendezvous = new Rendezvous(size, TIMEOUT);
        meeting = new Meeting(size, rendezvous);
        Transport.@Nullable Link least = null;
        channels = new Channel[size][size];
        for (int i = 0; i < size; i++) {
            for (int j = 0; j < size; j++) {
                if (i != j) {
                    Transport.Link between = Transport.between(devices.get(i), devices.get(j));
                    channels[i][j] = new Channel(i, j, between.transport().direct(), rendezvous);
                    if (least == null || between.transport().compareTo(least.transport()) > 0) {
                        least = between;
                    }
                }
            }
        }
        link = least == null ? new Transport.Link(Transport.SAME, "there is one rank") : least;
        Staging[] stagings = new Staging[size];
        ranks = new Rank[size];
        for (int i = 0; i < size; i++) {
            ranks[i] = new Rank(i, devices.get(i), stagings);
        }
    }

    static void requireSize(int size) {
        if (size > SumParts.MOST) {
            throw new UserException("A group of " + size + " ranks on cards is asked for, and " + SumParts.MOST
                    + " is the most: use fewer ranks, or a layout that splits them.");
        }
    }

    List<Rank> ranks() {
        return List.of(ranks);
    }

    Transport.Link link() {
        return link;
    }

    /// What a rank published of the collective under way.
    private static final class Call {
        private String name = "";
        private DType dtype = DType.F32;
        private long address;
        private long elements;
        private long part;

        /// Whether both are calls of the same collective, as far as its tensors tell.
        boolean agrees(Call other) {
            return name.equals(other.name) && dtype == other.dtype && elements == other.elements;
        }

        @Override
        public String toString() {
            return name + " of " + dtype + "[" + elements + "], its part " + part;
        }
    }

    /// A rank's end, used by its thread.
    final class Rank implements Communicator {
        private final int rank;
        private final CudaDevice device;
        private final SumParts sums;
        private final @Nullable Staging staging;
        private final long ready;
        private final long summed;
        private final long done;
        private final long moved;
        private final long scratch;
        private final Object[] arguments = SumParts.arguments();
        /// By parity of [#collectives]: a peer that reads one may be a collective behind.
        private final Call[] calls = {new Call(), new Call()};
        private final long[] starts = new long[ranks.length + 1];
        private final AtomicLong received = new AtomicLong();
        private final Runnable closing = this::close;
        private long collectives;
        private @Nullable CudaStream lane;
        private boolean closed;

        private Rank(int rank, CudaDevice device, Staging[] stagings) {
            this.rank = rank;
            this.device = device;
            device.bind();
            sums = new SumParts(device, link.transport() != Transport.PEER);
            ready = Driver.eventCreate(false);
            summed = Driver.eventCreate(false);
            done = Driver.eventCreate(false);
            moved = Driver.eventCreate(false);
            scratch = Driver.memAlloc(SMALL_BYTES);
            if (link.transport().direct()) {
                staging = null;
            } else {
                staging = new Staging(rank, stagings, meeting, device, sums);
                stagings[rank] = staging;
            }
            device.closeBefore(closing);
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
            CollectiveArguments.sum(tensor);
            CudaStream on = begin(stream, "allReduce");
            long n = tensor.elements();
            DType dtype = tensor.dtype();
            long address = tensor.address();
            long part = cut(n, rank + 1) - cut(n, rank);
            Call call = publish(on, "allReduce", dtype, address, n, part);
            if (tensor.bytes() <= SMALL_BYTES) {
                if (n == 0 || ranks.length == 1) {
                    return;
                }
                if (staging != null) {
                    received.addAndGet(staging.allReduce(on, dtype, address, tensor.bytes(), call));
                } else {
                    sum(on, dtype, 0, n, scratch);
                    leave(on, call);
                    Driver.memcpyAsync(address, scratch, tensor.bytes(), on.handle());
                }
                return;
            }
            long start = starts[rank];
            if (staging != null) {
                inBytes(dtype);
                received.addAndGet(staging.reduceScatter(on, dtype, address, address + starts[rank], starts, call));
                received.addAndGet(staging.gather(on, address + starts[rank], address, starts, call));
                return;
            }
            // In place: of this rank's tensor, only this rank reads and writes the part.
            sum(on, dtype, start, part, address + start * dtype.bytes());
            Driver.eventRecord(summed, on.handle());
            meet(call);
            for (int i = 1; i < ranks.length; i++) {
                Rank peer = ranks[(rank + i) % ranks.length];
                // The peer has read this rank's summands of the part too.
                Driver.streamWaitEvent(on.handle(), peer.summed);
                long at = starts[peer.rank] * dtype.bytes();
                long bytes = published(peer).part * dtype.bytes();
                copy(on, address + at, published(peer).address + at, bytes);
                received.addAndGet(bytes);
            }
            leave(on, call);
        }

        /// Where parts of an all-reduce begin.
        private long cut(long n, int part) {
            return part == ranks.length ? n : n / GRAIN * part / ranks.length * GRAIN;
        }

        @Override
        public void reduceScatter(Stream stream, Tensor full, Tensor shard) {
            CollectiveArguments.sum(full);
            CollectiveArguments.part(shard, full);
            CudaStream on = begin(stream, "reduceScatter");
            DType dtype = full.dtype();
            Call call = publish(on, "reduceScatter", dtype, full.address(), full.elements(), shard.elements());
            if (ranks.length == 1) {
                copy(on, shard.address(), full.address(), shard.bytes());
            } else if (staging != null) {
                inBytes(dtype);
                received.addAndGet(staging.reduceScatter(on, dtype, full.address(), shard.address(), starts, call));
            } else {
                sum(on, dtype, starts[rank], shard.elements(), shard.address());
                leave(on, call);
            }
        }

        @Override
        public void allGather(Stream stream, Tensor shard, Tensor full) {
            CollectiveArguments.part(shard, full);
            CudaStream on = begin(stream, "allGather");
            DType dtype = full.dtype();
            Call call = publish(on, "allGather", dtype, shard.address(), full.elements(), shard.elements());
            inBytes(dtype);
            copy(on, full.address() + starts[rank], shard.address(), shard.bytes());
            if (staging != null) {
                received.addAndGet(staging.gather(on, shard.address(), full.address(), starts, call));
                return;
            }
            for (int i = 1; i < ranks.length; i++) {
                Rank peer = ranks[(rank + i) % ranks.length];
                Driver.streamWaitEvent(on.handle(), peer.ready);
                long bytes = starts[peer.rank + 1] - starts[peer.rank];
                copy(on, full.address() + starts[peer.rank], published(peer).address, bytes);
                received.addAndGet(bytes);
            }
            leave(on, call);
        }

        @Override
        public void send(Stream stream, Tensor tensor, int peer) {
            CudaStream on = checked(stream, "send");
            CollectiveArguments.peer(peer, rank, ranks.length);
            channels[rank][peer].send(on, tensor);
        }

        @Override
        public void receive(Stream stream, Tensor tensor, int peer) {
            CudaStream on = checked(stream, "receive");
            CollectiveArguments.peer(peer, rank, ranks.length);
            channels[peer][rank].receive(on, tensor);
            received.addAndGet(tensor.bytes());
        }

        /// Calls must be issued each time: they meet other threads.
        @Override
        public boolean capturable() {
            return false;
        }

        @Override
        public void abort(Throwable cause) {
            rendezvous.abort(cause);
        }

        @Override
        public long bytesReceived() {
            return received.get();
        }

        /// Where each rank's part begins in the tensor that all publish, in elements, and where the last
        /// ends. All ranks call it together.
        ///
        /// @param name of the collective
        long[] starts(Stream stream, String name, Tensor full, Tensor part) {
            CollectiveArguments.part(part, full);
            CudaStream on = begin(stream, name);
            publish(on, name, full.dtype(), full.address(), full.elements(), part.elements());
            return starts;
        }

        /// The stream of a call, if it can be made.
        CudaStream checked(Stream stream, String name) {
            rendezvous.check();
            CudaStream on = (CudaStream) stream;
            if (on.device() != device) {
                throw new IllegalArgumentException("rank " + rank + " is on " + device.name() + ", its stream on "
                        + on.device().name());
            }
            on.requireNoCapture(name);
            device.bind();
            return on;
        }

        /// The stream of a collective. Scratch memory and events are those of one stream at a time: another
        /// one waits for what is under way.
        private CudaStream begin(Stream stream, String name) {
            CudaStream on = checked(stream, name);
            CudaStream before = lane;
            if (before != on) {
                if (before != null && !before.closed()) {
                    Driver.eventRecord(moved, before.handle());
                    Driver.streamWaitEvent(on.handle(), moved);
                }
                lane = on;
            }
            return on;
        }

        /// Tells the peers of this rank's tensor, meets them, and fills in [#starts].
        private Call publish(CudaStream on, String name, DType dtype, long address, long elements, long part) {
            collectives++;
            Call call = published(this);
            call.name = name;
            call.dtype = dtype;
            call.address = address;
            call.elements = elements;
            call.part = part;
            Driver.eventRecord(ready, on.handle());
            meet(call);
            long start = 0;
            for (Rank peer : ranks) {
                Call theirs = published(peer);
                if (!call.agrees(theirs)) {
                    throw new IllegalStateException(
                            "rank " + rank + " is in " + call + ", rank " + peer.rank + " in " + theirs);
                }
                starts[peer.rank] = start;
                start += theirs.part;
            }
            starts[ranks.length] = start;
            if (start != elements) {
                throw new IllegalStateException(
                        "rank " + rank + " is in " + call + ", and the parts of all ranks have " + start + " elements");
            }
            return call;
        }

        /// What a rank published of the collective that this rank is in.
        private Call published(Rank of) {
            return of.calls[(int) (collectives % calls.length)];
        }

        private void meet(Call call) {
            if (ranks.length > 1) {
                meeting.meet(rank, call);
            }
        }

        /// The end of a collective that reads the peers' memory.
        private void leave(CudaStream on, Call call) {
            Driver.eventRecord(done, on.handle());
            meet(call);
            for (Rank peer : ranks) {
                if (peer != this) {
                    Driver.streamWaitEvent(on.handle(), peer.done);
                }
            }
        }

        /// Sums all ranks' elements from `start` on, when they are ready.
        private void sum(CudaStream on, DType dtype, long start, long n, long out) {
            for (Rank peer : ranks) {
                if (peer != this) {
                    Driver.streamWaitEvent(on.handle(), peer.ready);
                }
                arguments[peer.rank] = published(peer).address + start * dtype.bytes();
            }
            sums.enqueue(on, dtype, arguments, ranks.length, out, n);
            received.addAndGet(n * dtype.bytes() * (ranks.length - 1));
        }

        private void copy(CudaStream on, long to, long from, long bytes) {
            if (to != from && bytes > 0) {
                Driver.memcpyAsync(to, from, bytes, on.handle());
            }
        }

        private void inBytes(DType dtype) {
            for (int i = 0; i < starts.length; i++) {
                starts[i] *= dtype.bytes();
            }
        }

        @Override
        public void close() {
            if (closed) {
                return;
            }
            closed = true;
            device.closedBefore(closing);
            CudaStream last = lane;
            if (last != null && !last.closed()) {
                // It may still use what is given back here.
                device.release(() -> Driver.streamSynchronize(last.handle()));
            }
            for (int peer = 0; peer < ranks.length; peer++) {
                if (peer != rank) {
                    channels[rank][peer].closeSending();
                    channels[peer][rank].closeReceiving();
                }
            }
            if (staging != null) {
                staging.close();
            }
            for (long event : new long[] {ready, summed, done, moved}) {
                device.release(() -> Driver.eventDestroy(event));
            }
            device.release(() -> Driver.memFree(scratch));
        }
    }
}
