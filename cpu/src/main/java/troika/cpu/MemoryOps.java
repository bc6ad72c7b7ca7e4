package troika.cpu;

import static troika.cpu.Vectors.LANES;
import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.IntConsumer;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#zero], [troika.tensor.Kernels#copy] and [troika.tensor.Kernels#add].
final class MemoryOps {
    private static final long CHUNK_BYTES = 1 << 18;

    private MemoryOps() {}

    static Runnable zero(Workers workers, Tensor out) {
        long address = out.address();
        long bytes = out.bytes();
        int tasks = Tasks.count(bytes, CHUNK_BYTES);
        IntConsumer task = chunk -> {
            long from = chunk * CHUNK_BYTES;
            zero(address + from, Math.min(CHUNK_BYTES, bytes - from));
        };
        return () -> workers.parallel(tasks, task);
    }

    /// Zeroes fewer than 2³¹ bytes, from this thread.
    static void zero(long address, long bytes) {
        int n = (int) bytes;
        int i = 0;
        for (; i <= n - 4 * LANES; i += 4 * LANES) {
            Vectors.storeZeros(address + i);
        }
        for (; i < n; i++) {
            ALL.set(ValueLayout.JAVA_BYTE, address + i, (byte) 0);
        }
    }

    static Runnable copy(Workers workers, Tensor from, Tensor to) {
        Tasks.require(from.bytes() == to.bytes(), "a copy of " + from.bytes() + " bytes to " + to.bytes());
        long source = from.address();
        long target = to.address();
        long bytes = from.bytes();
        int tasks = Tasks.count(bytes, CHUNK_BYTES);
        IntConsumer task = chunk -> {
            long offset = chunk * CHUNK_BYTES;
            MemorySegment.copy(ALL, source + offset, ALL, target + offset, Math.min(CHUNK_BYTES, bytes - offset));
        };
        return () -> workers.parallel(tasks, task);
    }

    static Runnable add(Workers workers, Tensor x, Tensor into) {
        Tasks.requireF32(x, "x");
        Tasks.requireF32(into, "into");
        long source = x.address();
        long target = into.address();
        long n = into.elements();
        int each = (int) CHUNK_BYTES / 4;
        int tasks = Tasks.count(n, each);
        IntConsumer task = chunk -> {
            long from = (long) chunk * each;
            add(source + 4 * from, target + 4 * from, (int) Math.min(each, n - from));
        };
        return () -> workers.parallel(tasks, task);
    }

    /// into += x for `n` floats, from this thread.
    static void add(long x, long into, int n) {
        int i = 0;
        for (; i <= n - LANES; i += LANES) {
            addVector(x + 4L * i, into + 4L * i, LANES);
        }
        if (i < n) {
            addVector(x + 4L * i, into + 4L * i, n - i);
        }
    }

    private static void addVector(long x, long into, int count) {
        Vectors.storeF32(into, count, Vectors.loadF32(into, count).add(Vectors.loadF32(x, count)));
    }
}
