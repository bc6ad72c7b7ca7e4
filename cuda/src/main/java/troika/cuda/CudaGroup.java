package troika.cuda;

import java.time.Duration;
import java.util.Arrays;
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
/// sums in the order of ranks ([Exchange]). The threads meet while they issue: each publishes its tensor's
/// address and its part's size, and records an event for a wait of another before that wait is issued; no
/// thread waits for a card. Since each wait is for something that was issued before it, by whichever thread,
/// streams cannot wait for each other in a circle, also where some share a hardware queue.
///
/// What follows on the lane may overwrite what a collective has read. Work of other lanes that overwrites it
/// waits for the event that is recorded on the lane behind the collective, and so for the same.
///
/// Sends and receives are between two threads: see [Channel].
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

    /// Makes a group.
    ///
    /// @param devices by rank
    CudaGroup(List<CudaDevice> devices, Routes routes) {
        this(devices, routes, Exchange.FETCHED_BYTES);
    }

    /// Makes a group.
    ///
    /// @param mostFetched the most bytes that are copied to a card and summed at once
    CudaGroup(List<CudaDevice> devices, Routes routes, long mostFetched) {
        int size = devices.size();
        requireSize(size);
        rendezvous = new Rendezvous(size, TIMEOUT);
        meeting = new Meeting(size, rendezvous);
        channels = new Channel[size][size];
        for (int i = 0; i < size; i++) {
            for (int j = 0; j < size; j++) {
                if (i != j) {
                    Route route = routes.between(i, j);
                    enable(route, i, j, devices);
                    channels[i][j] = new Channel(i, j, route, devices, rendezvous);
                }
            }
        }
        Exchange[] exchanges = new Exchange[size];
        ranks = new Rank[size];
        int made = 0;
        try {
            for (; made < size; made++) {
                exchanges[made] = new Exchange(made, exchanges, routes, meeting, devices, mostFetched);
                ranks[made] = new Rank(made, devices, exchanges[made]);
            }
        } catch (RuntimeException | Error e) {
            Arrays.stream(ranks, 0, made).forEach(Rank::close);
            throw e;
        }
    }

    private static void enable(Route route, int a, int b, List<CudaDevice> devices) {
        switch (route.kind()) {
            case DIRECT -> CardPath.enable(devices.get(a), devices.get(b));
            case CARD -> {
                CardPath.enable(devices.get(a), devices.get(route.over()));
                CardPath.enable(devices.get(b), devices.get(route.over()));
            }
            case HOST -> {}
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
        private final List<CudaDevice> devices;
        private final CudaDevice device;
        private final Exchange exchange;
        private final long moved;
        /// By parity of [#collectives]: a peer that reads one may be a collective behind.
        private final Call[] calls = {new Call(), new Call()};
        private final long[] starts = new long[ranks.length + 1];
        /// Where each rank has what this one needs of it.
        private final long[] places = new long[ranks.length];
        private final AtomicLong received = new AtomicLong();
        private final Runnable closing = this::close;
        private long collectives;
        private @Nullable CudaStream lane;
        private boolean closed;

        private Rank(int rank, List<CudaDevice> devices, Exchange exchange) {
            this.rank = rank;
            this.devices = devices;
            this.exchange = exchange;
            device = devices.get(rank);
            device.bind();
            moved = Driver.eventCreate(false);
            // Stores may lie on any of them.
            devices.forEach(each -> each.closeBefore(closing));
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
            if (n == 0 || ranks.length == 1) {
                return;
            }
            if (tensor.bytes() <= SMALL_BYTES) {
                for (Rank peer : ranks) {
                    places[peer.rank] = published(peer).address;
                }
                received.addAndGet(exchange.allReduce(on, dtype, address, tensor.bytes(), places, call));
                return;
            }
            inBytes(dtype);
            // In place: of a rank's tensor, only that rank writes its part before all have read theirs.
            long own = address + starts[rank];
            for (Rank peer : ranks) {
                places[peer.rank] = published(peer).address + starts[rank];
            }
            received.addAndGet(exchange.reduceScatter(on, dtype, address, own, starts, places, call));
            for (Rank peer : ranks) {
                places[peer.rank] = published(peer).address + starts[peer.rank];
            }
            received.addAndGet(exchange.gather(on, own, address, starts, places, call));
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
                return;
            }
            inBytes(dtype);
            for (Rank peer : ranks) {
                places[peer.rank] = published(peer).address + starts[rank];
            }
            received.addAndGet(
                    exchange.reduceScatter(on, dtype, full.address(), shard.address(), starts, places, call));
        }

        @Override
        public void allGather(Stream stream, Tensor shard, Tensor full) {
            CollectiveArguments.part(shard, full);
            CudaStream on = begin(stream, "allGather");
            DType dtype = full.dtype();
            Call call = publish(on, "allGather", dtype, shard.address(), full.elements(), shard.elements());
            inBytes(dtype);
            copy(on, full.address() + starts[rank], shard.address(), shard.bytes());
            for (Rank peer : ranks) {
                places[peer.rank] = published(peer).address;
            }
            received.addAndGet(exchange.gather(on, shard.address(), full.address(), starts, places, call));
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
            exchange.announce(on);
            if (ranks.length > 1) {
                meeting.meet(rank, call);
            }
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
            devices.forEach(each -> each.closedBefore(closing));
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
            exchange.close();
            device.release(() -> Driver.eventDestroy(moved));
        }
    }
}
