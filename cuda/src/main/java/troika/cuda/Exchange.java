package troika.cuda;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import troika.tensor.DType;

/// A rank's part in the collectives of a [CudaGroup]: copies, and a kernel that sums in the order of ranks,
/// issued by the rank's thread. What a rank needs of another it reads by the pair's [Route]:
///
/// - Where it lies. Readers wait for its owner's `ready`, which is recorded behind what produced it; at the
///   end all record `done`, meet, and wait for the `done` of those who read their memory: what follows on the
///   lane may then overwrite it. Summands on another card are copied to this one first: a kernel that reads
///   over a link keeps its multiprocessors from products for as long as that takes, a copy engine does not.
/// - From a [Store], to which its owner copies it in pieces and in turns to two halves, on a stream of its
///   own beside the lane, since a link carries both directions at once. The tensor may be overwritten when
///   the owner's own copies are done, and no last meeting is needed.
///
/// Where no two ranks use a store, pieces are a rank's own affair. Otherwise all go through the same number of
/// pieces, with one meeting a piece, between the issue of its copies to stores and the issue of those from
/// them. That is enough for all events of a half:
///
/// - Readers wait for `filled` of a half behind the meeting of its piece, and its owner records it anew two
///   pieces later, behind the next piece's meeting, which the readers join only when they have issued that
///   wait.
/// - An owner fills a half again when its stream waits for each reader's `emptied` of that half. Readers
///   have recorded it two pieces before, ahead of the meeting of the piece between, which the owner has
///   joined; and record it anew only behind the meeting that the owner joins when it has issued that wait.
///
/// Pieces are counted through all collectives, so this holds between the last pieces of one and the first
/// of the next. `ready` is recorded anew by the next collective, behind the last one's end, which the
/// readers joined when they had issued their waits for it; of `done` there are two, in turns, and one is
/// recorded anew behind the meeting of the other, likewise.
final class Exchange {
    static final long HALF_BYTES = 8L << 20;
    /// The most of what is copied to this card and summed at once. A sum waits until the products under way leave
    /// multiprocessors to it, some as long as a millisecond: so sums are few.
    static final long FETCHED_BYTES = 256L << 20;
    /// Where there are stores, links are slow, and cards small.
    private static final long FETCHED_FROM_STORES_BYTES = 64L << 20;
    private static final int HALVES = 2;
    /// Room to move a piece in its slot, for addresses that are alike modulo 16.
    private static final long SLACK_BYTES = 256;

    private final int rank;
    private final Exchange[] ranks;
    private final Meeting meeting;
    private final CudaDevice device;
    private final SumParts sums;
    /// Each once.
    private final List<Store> stores;
    /// Where each rank reads what this one has put down; 0 where it reads this one's memory.
    private final long[] stored;
    private final boolean storing;
    /// By rank, whether its memory is on this card.
    private final boolean[] near;
    private final boolean anyDirect;
    private final boolean fetching;
    /// For what was copied to this card and is to be summed; 0 until it is needed.
    private long fetched;
    private long fetchedBytes;
    private long mostFetched;
    /// What was too small; kept, since to free memory would wait for what is under way, in the middle of a step.
    private final List<Long> outgrown = new ArrayList<>();
    /// For the sums of a small all-reduce.
    private final long small;
    private final long putting;
    private final long begun;
    private final long ready;
    private final long[] done = new long[HALVES];
    private final long[] filled = new long[HALVES];
    private final long[] emptied = new long[HALVES];
    private final Object[] arguments = SumParts.arguments();
    private long pieces;
    private long ends;

    /// @param ranks of the group, of which this is to be one
    /// @param devices by rank
    /// @param mostFetched the most bytes that are copied to this card and summed at once, at least [#HALF_BYTES]
    Exchange(int rank, Exchange[] ranks, Routes routes, Meeting meeting, List<CudaDevice> devices, long mostFetched) {
        this.rank = rank;
        this.ranks = ranks;
        this.meeting = meeting;
        device = devices.get(rank);
        device.bind();
        Map<Route, Store> made = new HashMap<>();
        stored = new long[ranks.length];
        near = new boolean[ranks.length];
        for (int reader = 0; reader < ranks.length; reader++) {
            Route route = routes.between(rank, reader);
            if (!route.direct()) {
                stored[reader] = made.computeIfAbsent(route, _ -> Store.take(route, rank, devices, HALVES * HALF_BYTES))
                        .address();
            }
            near[reader] = route.direct() && devices.get(reader).ordinal() == device.ordinal();
        }
        stores = List.copyOf(made.values());
        storing = !routes.allDirect();
        this.mostFetched = storing ? Math.min(mostFetched, FETCHED_FROM_STORES_BYTES) : mostFetched;
        anyDirect = routes.anyDirect();
        sums = new SumParts(device);
        small = Driver.memAlloc(CudaGroup.SMALL_BYTES);
        fetching = IntStream.range(0, ranks.length).anyMatch(peer -> !near[peer]);
        putting = stores.isEmpty() ? 0 : Driver.streamCreate();
        begun = Driver.eventCreate(false);
        ready = Driver.eventCreate(false);
        for (int half = 0; half < HALVES; half++) {
            done[half] = Driver.eventCreate(false);
            filled[half] = Driver.eventCreate(false);
            emptied[half] = Driver.eventCreate(false);
        }
    }

    /// Says that what comes before on the lane is what this rank brings to the next collective. All ranks
    /// meet between this and the collective.
    void announce(CudaStream lane) {
        Driver.eventRecord(ready, lane.handle());
    }

    /// Collects in `full` the parts of all other ranks; returns the bytes read of them.
    ///
    /// @param shard this rank's part
    /// @param starts where each rank's part begins in `full`, in bytes, and where the last ends
    /// @param shards where each rank has its part
    /// @param collective for messages
    long gather(CudaStream lane, long shard, long full, long[] starts, long[] shards, Object collective) {
        begin(lane);
        long received = 0;
        long longest = longest(starts);
        long most = storing ? HALF_BYTES : longest;
        for (long at = 0; at < longest; at += most) {
            int half = refill();
            for (Store store : stores) {
                copy(half(store.address(), half), shard + at, bytes(starts, rank, at, most), putting);
            }
            meet(half, collective);
            for (int i = 1; i < ranks.length; i++) {
                int peer = (rank + i) % ranks.length;
                long bytes = bytes(starts, peer, at, most);
                if (bytes > 0) {
                    await(lane, peer, half);
                    long from = source(peer, half, 0, shards[peer] + at);
                    copy(full + starts[peer] + at, from, bytes, lane.handle());
                    received += bytes;
                }
            }
            emptied(lane, half);
        }
        end(lane, collective);
        return received;
    }

    /// Leaves this rank's part of the sum over all ranks at `out`; returns the bytes read of others.
    ///
    /// @param full this rank's summands, `out` may be its part of it
    /// @param starts where each rank's part begins in `full`, in bytes, and where the last ends
    /// @param parts where each rank has its summands of this rank's part
    long reduceScatter(
            CudaStream lane, DType dtype, long full, long out, long[] starts, long[] parts, Object collective) {
        begin(lane);
        long longest = longest(starts);
        long slot = slot();
        long summed = roomFor(longest);
        long room = summed + SLACK_BYTES;
        long most = storing ? slot - SLACK_BYTES : summed;
        long received = 0;
        for (long at = 0; at < longest; at += most) {
            int half = refill();
            for (int i = 1; i < ranks.length; i++) {
                int peer = (rank + i) % ranks.length;
                if (stored[peer] != 0) {
                    long to = half(stored[peer], half) + slot * place(peer);
                    copy(to, full + starts[peer] + at, bytes(starts, peer, at, most), putting);
                }
            }
            meet(half, collective);
            long bytes = bytes(starts, rank, at, most);
            long first = at / summed * summed;
            // Each rank begins with another peer: else all would read of one at a time.
            for (int i = 1; i < ranks.length && bytes > 0; i++) {
                int peer = (rank + i) % ranks.length;
                await(lane, peer, half);
                if (near[peer]) {
                    arguments[peer] = parts[peer] + first;
                } else {
                    long from = source(peer, half, slot * ranks[peer].place(rank), parts[peer] + at);
                    long to = target(peer, room, out + first);
                    copy(to + at - first, from, bytes, lane.handle());
                    arguments[peer] = to;
                }
                received += bytes;
            }
            emptied(lane, half);
            long end = at + bytes;
            if (bytes > 0 && (end == first + summed || end == starts[rank + 1] - starts[rank])) {
                arguments[rank] = full + starts[rank] + first;
                sums.enqueue(lane, dtype, arguments, ranks.length, out + first, (end - first) / dtype.bytes());
            }
        }
        end(lane, collective);
        return received;
    }

    /// Sums a tensor that is small enough to be read whole by each rank; returns the bytes read of others.
    ///
    /// @param bytes at most [CudaGroup#SMALL_BYTES]
    /// @param tensors where each rank has its summands
    long allReduce(CudaStream lane, DType dtype, long tensor, long bytes, long[] tensors, Object collective) {
        begin(lane);
        long room = aligned(bytes) + SLACK_BYTES;
        makeRoom(storing ? room : 0);
        int half = refill();
        for (Store store : stores) {
            copy(half(store.address(), half), tensor, bytes, putting);
        }
        meet(half, collective);
        for (int peer = 0; peer < ranks.length; peer++) {
            if (peer != rank) {
                await(lane, peer, half);
                // What is so small the kernel may well read over a link.
                arguments[peer] = tensors[peer];
                if (ranks[peer].stored[rank] != 0) {
                    long to = target(peer, room, tensor);
                    copy(to, source(peer, half, 0, 0), bytes, lane.handle());
                    arguments[peer] = to;
                }
            }
        }
        emptied(lane, half);
        arguments[rank] = tensor;
        sums.enqueue(lane, dtype, arguments, ranks.length, small, bytes / dtype.bytes());
        end(lane, collective);
        copy(tensor, small, bytes, lane.handle());
        return bytes * (ranks.length - 1);
    }

    /// The most bytes that [#allReduce] sums.
    static long mostWhole() {
        return HALF_BYTES / (SumParts.MOST - 1) / SLACK_BYTES * SLACK_BYTES - SLACK_BYTES;
    }

    /// The bytes of each reader's slot in a half.
    private long slot() {
        return HALF_BYTES / Math.max(1, ranks.length - 1) / SLACK_BYTES * SLACK_BYTES;
    }

    /// The bytes of a part that are summed at once, for which there is room then. On a full card they are fewer.
    private long roomFor(long longest) {
        while (true) {
            long summed = summed(longest);
            try {
                makeRoom(summed + SLACK_BYTES);
                return summed;
            } catch (CudaException e) {
                if (e.status() != CudaException.OUT_OF_MEMORY || mostFetched / 2 < HALF_BYTES) {
                    throw e;
                }
                mostFetched /= 2;
            }
        }
    }

    /// The bytes of a part that are to be summed at once: as few sums as can be, and alike; where there are stores,
    /// of whole pieces.
    private long summed(long longest) {
        long peers = Math.max(1, ranks.length - 1);
        if (storing) {
            long piece = slot() - SLACK_BYTES;
            return Math.clamp(Math.ceilDiv(longest, piece), 1, (mostFetched / peers - SLACK_BYTES) / piece) * piece;
        }
        long sums = fetching ? Math.ceilDiv(longest, mostFetched / peers - 2 * SLACK_BYTES) : 1;
        return aligned(Math.ceilDiv(longest, Math.max(1, sums)));
    }

    private static long aligned(long bytes) {
        return Math.ceilDiv(bytes, SLACK_BYTES) * SLACK_BYTES;
    }

    /// Takes memory for what is copied from each peer, when more is needed than ever before: at least twice as much,
    /// or the most, so that all that was too small is less than twice the most.
    private void makeRoom(long room) {
        long needed = fetching ? room * (ranks.length - 1) : 0;
        if (needed > fetchedBytes) {
            long bytes = Math.max(needed, Math.min(2 * fetchedBytes, mostFetched));
            long address = Driver.memAlloc(bytes);
            if (fetched != 0) {
                outgrown.add(fetched);
            }
            fetched = address;
            fetchedBytes = bytes;
        }
    }

    /// Where a peer has its slot among those of all but this rank.
    private int place(int peer) {
        return peer < rank ? peer : peer - 1;
    }

    private static long half(long store, int half) {
        return store + half * HALF_BYTES;
    }

    /// The lane goes on when the peer's data can be read.
    private void await(CudaStream lane, int peer, int half) {
        Exchange owner = ranks[peer];
        Driver.streamWaitEvent(lane.handle(), owner.stored[rank] == 0 ? owner.ready : owner.filled[half]);
    }

    /// Where this rank reads what a peer has: in the peer's memory, or in its store.
    ///
    /// @param from where it lies in the half of the store
    private long source(int peer, int half, long from, long direct) {
        long store = ranks[peer].stored[rank];
        return store == 0 ? direct : half(store, half) + from;
    }

    /// Where a peer's summands are copied to. That memory is the lane's alone, so that it is used by one sum behind
    /// the other.
    ///
    /// @param like an address that this one is to be like modulo 16, so that sums move 16 bytes at a time
    private long target(int peer, long room, long like) {
        return fetched + room * place(peer) + like % 16;
    }

    /// The copies to stores start when the lane comes here.
    private void begin(CudaStream lane) {
        if (!stores.isEmpty()) {
            Driver.eventRecord(begun, lane.handle());
            Driver.streamWaitEvent(putting, begun);
        }
    }

    /// The half that is next: the copies to it wait until all readers have read what it held.
    private int refill() {
        int half = (int) (pieces % HALVES);
        for (int reader = 0; reader < ranks.length; reader++) {
            if (stored[reader] != 0) {
                Driver.streamWaitEvent(putting, ranks[reader].emptied[half]);
            }
        }
        return half;
    }

    /// The end of the copies to a half, and the beginning of those from it.
    private void meet(int half, Object collective) {
        if (!stores.isEmpty()) {
            Driver.eventRecord(filled[half], putting);
        }
        if (storing) {
            meeting.meet(rank, collective);
        }
    }

    /// The end of a piece.
    private void emptied(CudaStream lane, int half) {
        if (!stores.isEmpty()) {
            Driver.eventRecord(emptied[half], lane.handle());
        }
        pieces++;
    }

    /// The lane goes on when this rank's tensor was read.
    private void end(CudaStream lane, Object collective) {
        if (!stores.isEmpty() && pieces > 0) {
            Driver.streamWaitEvent(lane.handle(), filled[(int) ((pieces - 1) % HALVES)]);
        }
        if (anyDirect) {
            int turn = (int) (ends++ % HALVES);
            Driver.eventRecord(done[turn], lane.handle());
            meeting.meet(rank, collective);
            for (Exchange reader : ranks) {
                if (reader != this && stored[reader.rank] == 0) {
                    Driver.streamWaitEvent(lane.handle(), reader.done[turn]);
                }
            }
        }
    }

    /// The bytes of a piece of a rank's part.
    ///
    /// @param at where it starts in the part
    private static long bytes(long[] starts, int rank, long at, long most) {
        return Math.clamp(starts[rank + 1] - starts[rank] - at, 0, most);
    }

    private static long longest(long[] starts) {
        long longest = 0;
        for (int i = 0; i + 1 < starts.length; i++) {
            longest = Math.max(longest, starts[i + 1] - starts[i]);
        }
        return longest;
    }

    private static void copy(long to, long from, long bytes, long stream) {
        if (to != from && bytes > 0) {
            Driver.memcpyAsync(to, from, bytes, stream);
        }
    }

    void close() {
        if (!stores.isEmpty()) {
            device.release(() -> Driver.streamSynchronize(putting));
            device.release(() -> Driver.streamDestroy(putting));
        }
        device.release(() -> Driver.eventDestroy(begun));
        device.release(() -> Driver.eventDestroy(ready));
        for (long[] halves : List.of(done, filled, emptied)) {
            for (long event : halves) {
                device.release(() -> Driver.eventDestroy(event));
            }
        }
        device.release(() -> Driver.memFree(small));
        stores.forEach(Store::free);
        if (fetched != 0) {
            outgrown.add(fetched);
        }
        outgrown.forEach(address -> device.release(() -> Driver.memFree(address)));
    }
}
