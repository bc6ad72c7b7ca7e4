package troika.cuda;

import java.lang.foreign.MemorySegment;
import troika.ffi.NativeMemory;

/// Synchronous copies between any host memory and a card, through two pieces of pinned memory, so that the
/// host copies one while the card copies the other.
final class Transfers {
    static final long PIECE_BYTES = 4L << 20;

    private final CudaDevice device;
    private final long pinned;
    private final long stream;
    private final long[] done = new long[2];

    Transfers(CudaDevice device) {
        this.device = device;
        device.bind();
        pinned = Driver.memHostAlloc(2 * PIECE_BYTES);
        stream = Driver.streamCreate();
        done[0] = Driver.eventCreate(false);
        done[1] = Driver.eventCreate(false);
    }

    synchronized void write(long to, MemorySegment from, long bytes) {
        device.bind();
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

    synchronized void read(long from, MemorySegment to, long bytes) {
        device.bind();
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
                MemorySegment.copy(NativeMemory.ALL, address(half), to, before, Math.min(PIECE_BYTES, bytes - before));
            }
        }
    }

    synchronized void zero(long at, long bytes) {
        device.bind();
        Driver.memsetD8Async(at, (byte) 0, bytes, stream);
        Driver.streamSynchronize(stream);
    }

    private static int half(long start) {
        return (int) (start / PIECE_BYTES % 2);
    }

    private long address(int half) {
        return pinned + half * PIECE_BYTES;
    }

    void close() {
        device.release(() -> Driver.streamSynchronize(stream));
        device.release(() -> Driver.streamDestroy(stream));
        for (long event : done) {
            device.release(() -> Driver.eventDestroy(event));
        }
        device.release(() -> Driver.memFreeHost(pinned));
    }
}
