package troika.cuda;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayDeque;
import java.util.Deque;
import troika.ffi.NativeMemory;

/// Measures a card's copies. Rates are in bytes a second; NaN where data came out wrong.
final class CardProbe implements AutoCloseable {
    private static final int COPIES = 4;
    private static final long RIGHT_SEED = 0x9e3779b97f4a7c15L;
    private static final long OTHER_SEED = 0xc2b2ae3d27d4eb4fL;

    private final int ordinal;
    private final int handle;
    private final long bytes;
    private final long context;
    private final Deque<Runnable> taken = new ArrayDeque<>();
    private long hostA;
    private long hostB;
    private long cardA;
    private long cardB;
    private long up;
    private long down;
    private long begin;
    private long end;

    /// Makes the card's context current on this thread.
    ///
    /// @param bytes of each copy
    CardProbe(int ordinal, long bytes) {
        this.ordinal = ordinal;
        this.bytes = bytes;
        handle = Driver.device(ordinal);
        context = Driver.primaryContextRetain(handle);
        taken.push(() -> Driver.primaryContextRelease(handle));
        bind();
    }

    int ordinal() {
        return ordinal;
    }

    private void bind() {
        Driver.setCurrent(context);
    }

    /// Takes the memory that the measurements need.
    void prepare() {
        bind();
        hostA = host();
        hostB = host();
        cardA = card();
        cardB = card();
        up = stream();
        down = stream();
        begin = event();
        end = event();
    }

    private long host() {
        long address = Driver.memHostAlloc(bytes);
        taken.push(() -> Driver.memFreeHost(address));
        return address;
    }

    private long card() {
        long address = Driver.memAlloc(bytes);
        taken.push(() -> Driver.memFree(address));
        return address;
    }

    private long stream() {
        long stream = Driver.streamCreate();
        taken.push(() -> Driver.streamDestroy(stream));
        return stream;
    }

    private long event() {
        long event = Driver.eventCreate(true);
        taken.push(() -> Driver.eventDestroy(event));
        return event;
    }

    double hostToCard() {
        bind();
        fill(hostA, RIGHT_SEED);
        double rate = rate(cardA, hostA);
        copy(hostB, cardA);
        return holds(hostB, RIGHT_SEED) ? rate : Double.NaN;
    }

    double cardToHost() {
        bind();
        fill(hostA, OTHER_SEED);
        copy(cardA, hostA);
        fill(hostB, RIGHT_SEED);
        double rate = rate(hostB, cardA);
        return holds(hostB, OTHER_SEED) ? rate : Double.NaN;
    }

    /// The sum of both directions at once.
    double bothWays() {
        bind();
        fill(hostB, OTHER_SEED);
        copy(cardB, hostB);
        fill(hostA, RIGHT_SEED);
        fill(hostB, RIGHT_SEED);
        Driver.streamSynchronize(up);
        long start = System.nanoTime();
        for (int i = 0; i < COPIES; i++) {
            Driver.memcpyAsync(cardA, hostA, bytes, up);
            Driver.memcpyAsync(hostB, cardB, bytes, down);
        }
        Driver.streamSynchronize(up);
        Driver.streamSynchronize(down);
        double seconds = (System.nanoTime() - start) / 1e9;
        boolean right = holds(hostB, OTHER_SEED);
        copy(hostB, cardA);
        right &= holds(hostB, RIGHT_SEED);
        return right ? 2.0 * COPIES * bytes / seconds : Double.NaN;
    }

    /// Bytes read and written by copies within the card's memory.
    double withinCard() {
        bind();
        fill(hostA, RIGHT_SEED);
        copy(cardA, hostA);
        double rate = 2 * rate(cardB, cardA);
        copy(hostB, cardB);
        return holds(hostB, RIGHT_SEED) ? rate : Double.NaN;
    }

    /// Whether this card can address the other's memory.
    boolean reaches(CardProbe other) {
        return Peers.canAccess(handle, other.handle);
    }

    /// From this card to another, which is prepared too.
    double toCard(CardProbe other) {
        bind();
        if (reaches(other)) {
            Peers.enable(other.context);
        }
        fill(hostA, OTHER_SEED);
        copy(cardA, hostA);
        // The first copy sets things up.
        Peers.copyAsync(other.cardB, other.context, cardA, context, bytes, up);
        Driver.eventRecord(begin, up);
        for (int i = 0; i < COPIES; i++) {
            Peers.copyAsync(other.cardB, other.context, cardA, context, bytes, up);
        }
        Driver.eventRecord(end, up);
        Driver.streamSynchronize(up);
        double rate = COPIES * bytes / (Driver.eventElapsed(begin, end) / 1e3);
        other.bind();
        fill(other.hostB, RIGHT_SEED);
        other.copy(other.hostB, other.cardB);
        return holds(other.hostB, OTHER_SEED) ? rate : Double.NaN;
    }

    /// The most host memory up to `most` bytes that the driver pins in one piece, by halving.
    long pinnable(long most) {
        bind();
        for (long bytes = most; bytes >= 1 << 20; bytes /= 2) {
            try {
                Driver.memFreeHost(Driver.memHostAlloc(bytes));
                return bytes;
            } catch (CudaException e) {
                // Too much: half of it may do.
            }
        }
        return 0;
    }

    private double rate(long to, long from) {
        // The first copy sets things up.
        copy(to, from);
        Driver.eventRecord(begin, up);
        for (int i = 0; i < COPIES; i++) {
            Driver.memcpyAsync(to, from, bytes, up);
        }
        Driver.eventRecord(end, up);
        Driver.streamSynchronize(up);
        return COPIES * bytes / (Driver.eventElapsed(begin, end) / 1e3);
    }

    private void copy(long to, long from) {
        Driver.memcpyAsync(to, from, bytes, up);
        Driver.streamSynchronize(up);
    }

    private MemorySegment segment(long address) {
        return NativeMemory.ALL.asSlice(address, bytes);
    }

    /// Writes numbers that differ from place to place, so that a piece which went astray is seen.
    private void fill(long address, long seed) {
        MemorySegment segment = segment(address);
        for (long i = 0; i < bytes / Long.BYTES; i++) {
            segment.setAtIndex(ValueLayout.JAVA_LONG, i, i * seed);
        }
    }

    private boolean holds(long address, long seed) {
        MemorySegment segment = segment(address);
        boolean right = true;
        for (long i = 0; i < bytes / Long.BYTES; i++) {
            right &= segment.getAtIndex(ValueLayout.JAVA_LONG, i) == i * seed;
        }
        return right;
    }

    @Override
    public void close() {
        while (!taken.isEmpty()) {
            try {
                bind();
                taken.pop().run();
            } catch (CudaException e) {
                // What failed before has been told; the process gives the rest back when it ends.
                return;
            }
        }
    }
}
