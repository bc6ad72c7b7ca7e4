package troika.cuda;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.LinkedBlockingQueue;
import troika.ffi.NativeMemory;

/// Synchronous copies between any host memory and a card, through pinned memory. Several threads may copy at
/// a time, since one core fills pinned memory more slowly than the card empties it.
final class Transfers {
    static final long PIECE_BYTES = 4L << 20;

    private static final int WAYS = 4;
    private static final long WAY_BYTES = 2 * PIECE_BYTES;

    private final CudaDevice device;
    private final long pinned;
    private final List<Way> ways = new ArrayList<>();
    private final LinkedBlockingQueue<Way> free = new LinkedBlockingQueue<>();

    Transfers(CudaDevice device) {
        this.device = device;
        device.bind();
        pinned = Driver.memHostAlloc(WAYS * WAY_BYTES);
        for (int i = 0; i < WAYS; i++) {
            ways.add(new Way(pinned + i * WAY_BYTES));
        }
        free.addAll(ways);
    }

    void write(long to, MemorySegment from, long bytes) {
        use(way -> way.write(to, from, bytes));
    }

    void read(long from, MemorySegment to, long bytes) {
        use(way -> way.read(from, to, bytes));
    }

    void zero(long at, long bytes) {
        use(way -> way.zero(at, bytes));
    }

    private interface Use {
        void of(Way way);
    }

    private void use(Use use) {
        device.bind();
        Way way = taken();
        try {
            use.of(way);
        } finally {
            free.add(way);
        }
    }

    private Way taken() {
        boolean interrupted = false;
        try {
            while (true) {
                try {
                    return free.take();
                } catch (InterruptedException e) {
                    interrupted = true;
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /// A stream and two pieces of pinned memory, so that the host copies one while the card copies the other.
    private static final class Way {
        private final long pieces;
        private final long stream = Driver.streamCreate();
        private final long[] done = {Driver.eventCreate(false), Driver.eventCreate(false)};

        Way(long pieces) {
            this.pieces = pieces;
        }

        void write(long to, MemorySegment from, long bytes) {
            for (long start = 0; start < bytes; start += PIECE_BYTES) {
                int half = half(start);
                long length = Math.min(PIECE_BYTES, bytes - start);
                // Where it was never recorded, there is nothing to wait for.
                Driver.eventSynchronize(done[half]);
                MemorySegment.copy(from, start, NativeMemory.ALL, address(half), length);
                Driver.memcpyAsync(to + start, address(half), length, stream);
                Driver.eventRecord(done[half], stream);
            }
            Driver.streamSynchronize(stream);
        }

        void read(long from, MemorySegment to, long bytes) {
            for (long start = 0; start < bytes + PIECE_BYTES; start += PIECE_BYTES) {
                if (start < bytes) {
                    int half = half(start);
                    Driver.memcpyAsync(address(half), from + start, Math.min(PIECE_BYTES, bytes - start), stream);
                    Driver.eventRecord(done[half], stream);
                }
                long before = start - PIECE_BYTES;
                if (before >= 0) {
                    int half = half(before);
                    Driver.eventSynchronize(done[half]);
                    MemorySegment.copy(
                            NativeMemory.ALL, address(half), to, before, Math.min(PIECE_BYTES, bytes - before));
                }
            }
        }

        void zero(long at, long bytes) {
            Driver.memsetD8Async(at, (byte) 0, bytes, stream);
            Driver.streamSynchronize(stream);
        }

        private static int half(long start) {
            return (int) (start / PIECE_BYTES % 2);
        }

        private long address(int half) {
            return pieces + half * PIECE_BYTES;
        }
    }

    void close() {
        for (Way way : ways) {
            device.release(() -> Driver.streamSynchronize(way.stream));
            device.release(() -> Driver.streamDestroy(way.stream));
            for (long event : way.done) {
                device.release(() -> Driver.eventDestroy(event));
            }
        }
        device.release(() -> Driver.memFreeHost(pinned));
    }
}
