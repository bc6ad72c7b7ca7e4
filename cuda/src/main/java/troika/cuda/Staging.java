package troika.cuda;

import troika.tensor.DType;

/// A rank's part in collectives that go through pinned host memory. Each rank copies to its own pinned
/// memory, in pieces and in turns to two halves of it, what the others need; and they copy from there to
/// their cards. Copies to the host run on a stream of their own beside the lane's copies from the host,
/// since a link carries both directions at once.
///
/// All ranks go through the same number of pieces, with one meeting a piece, between the issue of its
/// copies to the host and the issue of those from it. That is enough for all events, of which there is one
/// a half:
///
/// - Readers wait for `filled` of a half behind the meeting of its piece, and its owner records it anew two
///   pieces later, behind the next piece's meeting, which the readers join only when they have issued that
///   wait.
/// - An owner fills a half again when its stream waits for each reader's `emptied` of that half. Readers
///   have recorded it two pieces before, ahead of the meeting of the piece between, which the owner has
///   joined; and record it anew only behind the meeting that the owner joins when it has issued that wait.
///
/// Pieces are counted through all collectives, so this holds between the last pieces of one and the first
/// of the next. A last meeting is not needed: no other rank reads this rank's card. That the tensor may be
/// overwritten by what follows on the lane is ensured by a wait of the lane for the copies to the host;
/// other lanes wait for the event that is recorded on the lane behind the collective, and so for the same.
final class Staging {
    static final long HALF_BYTES = 8L << 20;
    private static final int HALVES = 2;
    /// Room to move a piece in its slot, for addresses that are alike modulo 16.
    private static final long SLACK_BYTES = 256;

    private final int rank;
    private final Staging[] ranks;
    private final Meeting meeting;
    private final CudaDevice device;
    private final SumParts sums;
    private final long pinned;
    private final long scratch;
    private final long toHost;
    private final long begun;
    private final long[] filled = new long[HALVES];
    private final long[] emptied = new long[HALVES];
    private final Object[] arguments = SumParts.arguments();
    private long pieces;

    /// @param ranks of the group, of which this is to be one
    Staging(int rank, Staging[] ranks, Meeting meeting, CudaDevice device, SumParts sums) {
        this.rank = rank;
        this.ranks = ranks;
        this.meeting = meeting;
        this.device = device;
        this.sums = sums;
        device.bind();
        pinned = Driver.memHostAlloc(HALVES * HALF_BYTES);
        scratch = Driver.memAlloc(HALF_BYTES);
        toHost = Driver.streamCreate();
        begun = Driver.eventCreate(false);
        for (int half = 0; half < HALVES; half++) {
            filled[half] = Driver.eventCreate(false);
            emptied[half] = Driver.eventCreate(false);
        }
    }

    /// Collects in `full` the parts of all ranks, of which this rank's is at `shard`; returns the bytes
    /// read of others.
    ///
    /// @param starts where each rank's part begins in `full`, in bytes, and where the last ends
    /// @param collective for messages
    long gather(CudaStream lane, long shard, long full, long[] starts, Object collective) {
        begin(lane);
        long received = 0;
        long longest = longest(starts);
        for (long at = 0; at < longest; at += HALF_BYTES) {
            int half = half();
            refill(half);
            copy(pinned(half), shard + at, bytes(starts, rank, at, HALF_BYTES), toHost);
            Driver.eventRecord(filled[half], toHost);
            meeting.meet(rank, collective);
            for (int i = 1; i < ranks.length; i++) {
                int peer = (rank + i) % ranks.length;
                long bytes = bytes(starts, peer, at, HALF_BYTES);
                if (bytes > 0) {
                    Driver.streamWaitEvent(lane.handle(), ranks[peer].filled[half]);
                    copy(full + starts[peer] + at, ranks[peer].pinned(half), bytes, lane.handle());
                    received += bytes;
                }
            }
            Driver.eventRecord(emptied[half], lane.handle());
            pieces++;
        }
        end(lane);
        return received;
    }

    /// Leaves this rank's part of the sum over all ranks at `out`; returns the bytes read of others.
    ///
    /// @param full this rank's summands, `out` may be its part of it
    /// @param starts where each rank's part begins in `full`, in bytes, and where the last ends
    long reduceScatter(CudaStream lane, DType dtype, long full, long out, long[] starts, Object collective) {
        begin(lane);
        long slot = HALF_BYTES / (ranks.length - 1) / SLACK_BYTES * SLACK_BYTES;
        long most = slot - SLACK_BYTES;
        long longest = longest(starts);
        long received = 0;
        for (long at = 0; at < longest; at += most) {
            int half = half();
            refill(half);
            for (int i = 1; i < ranks.length; i++) {
                int peer = (rank + i) % ranks.length;
                copy(pinned(half) + slot * slot(peer), full + starts[peer] + at, bytes(starts, peer, at, most), toHost);
            }
            Driver.eventRecord(filled[half], toHost);
            meeting.meet(rank, collective);
            long bytes = bytes(starts, rank, at, most);
            if (bytes > 0) {
                for (int peer = 0; peer < ranks.length; peer++) {
                    if (peer != rank) {
                        long from = ranks[peer].pinned(half) + slot * ranks[peer].slot(rank);
                        arguments[peer] = fetch(lane, peer, half, from, bytes, slot, out + at);
                        received += bytes;
                    }
                }
            }
            Driver.eventRecord(emptied[half], lane.handle());
            if (bytes > 0) {
                arguments[rank] = full + starts[rank] + at;
                sums.enqueue(lane, dtype, arguments, ranks.length, out + at, bytes / dtype.bytes());
            }
            pieces++;
        }
        end(lane);
        return received;
    }

    /// Sums a tensor that is small enough to be read whole by each rank; returns the bytes read of others.
    ///
    /// @param bytes at most [#mostWhole]
    long allReduce(CudaStream lane, DType dtype, long tensor, long bytes, Object collective) {
        begin(lane);
        int half = half();
        long slot = HALF_BYTES / (ranks.length - 1) / SLACK_BYTES * SLACK_BYTES;
        refill(half);
        copy(pinned(half), tensor, bytes, toHost);
        Driver.eventRecord(filled[half], toHost);
        meeting.meet(rank, collective);
        for (int peer = 0; peer < ranks.length; peer++) {
            if (peer != rank) {
                arguments[peer] = fetch(lane, peer, half, ranks[peer].pinned(half), bytes, slot, tensor);
            }
        }
        Driver.eventRecord(emptied[half], lane.handle());
        arguments[rank] = tensor;
        // The sum overwrites what is copied to the host.
        Driver.streamWaitEvent(lane.handle(), filled[half]);
        sums.enqueue(lane, dtype, arguments, ranks.length, tensor, bytes / dtype.bytes());
        pieces++;
        return bytes * (ranks.length - 1);
    }

    /// The most bytes that [#allReduce] sums.
    static long mostWhole() {
        return HALF_BYTES / (SumParts.MOST - 1) / SLACK_BYTES * SLACK_BYTES - SLACK_BYTES;
    }

    /// Copies a piece of a peer's to this rank's scratch memory, and returns its address there. The scratch
    /// memory is the lane's alone, so that it is used by one piece behind the other.
    ///
    /// @param like an address that it is to be like modulo 16, so that sums move 16 bytes at a time
    private long fetch(CudaStream lane, int peer, int half, long from, long bytes, long slot, long like) {
        long to = scratch + slot * slot(peer) + like % 16;
        Driver.streamWaitEvent(lane.handle(), ranks[peer].filled[half]);
        copy(to, from, bytes, lane.handle());
        return to;
    }

    /// The copies to the host start when the lane comes here.
    private void begin(CudaStream lane) {
        Driver.eventRecord(begun, lane.handle());
        Driver.streamWaitEvent(toHost, begun);
    }

    /// The lane goes on when the copies to the host are done.
    private void end(CudaStream lane) {
        if (pieces > 0) {
            Driver.streamWaitEvent(lane.handle(), filled[(int) ((pieces - 1) % HALVES)]);
        }
    }

    private int half() {
        return (int) (pieces % HALVES);
    }

    private long pinned(int half) {
        return pinned + half * HALF_BYTES;
    }

    /// Where a peer has its slot among those of all but this rank.
    private int slot(int peer) {
        return peer < rank ? peer : peer - 1;
    }

    /// Lets the copies to the host wait until all readers have read what the half held.
    private void refill(int half) {
        for (Staging reader : ranks) {
            if (reader != this) {
                Driver.streamWaitEvent(toHost, reader.emptied[half]);
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
        if (bytes > 0) {
            Driver.memcpyAsync(to, from, bytes, stream);
        }
    }

    void close() {
        device.release(() -> Driver.streamSynchronize(toHost));
        device.release(() -> Driver.streamDestroy(toHost));
        device.release(() -> Driver.eventDestroy(begun));
        for (int half = 0; half < HALVES; half++) {
            long fill = filled[half];
            long empty = emptied[half];
            device.release(() -> Driver.eventDestroy(fill));
            device.release(() -> Driver.eventDestroy(empty));
        }
        device.release(() -> Driver.memFreeHost(pinned));
        device.release(() -> Driver.memFree(scratch));
    }
}
