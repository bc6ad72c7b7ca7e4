package troika.cpu;

import static troika.cpu.Vectors.LANES;
import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.IntConsumer;
import jdk.incubator.vector.FloatVector;
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
        Chunk chunk = switch (into.dtype()) {
            case F32 -> MemoryOps::add;
            case BF16 -> MemoryOps::addBf16Row;
            case F16 -> MemoryOps::addHalf;
            case I32 -> throw new IllegalArgumentException("no sum of I32");
        };
        long source = x.address();
        long target = into.address();
        long n = into.elements();
        int bytes = into.dtype().bytes();
        int each = (int) CHUNK_BYTES / bytes;
        int tasks = Tasks.count(n, each);
        IntConsumer task = i -> {
            long from = (long) i * each;
            chunk.add(source + bytes * from, target + bytes * from, (int) Math.min(each, n - from));
        };
        return () -> workers.parallel(tasks, task);
    }

    /// into += x for `n` elements at addresses.
    private interface Chunk {
        void add(long x, long into, int n);
    }

    /// into += x for `n` floats, from this thread.
    static void add(long x, long into, int n) {
        addF32Row(x, into, n);
    }

    // Compiled apart and with one dtype each, so that vectors stay in registers.

    private static void addF32Row(long x, long into, int n) {
        int i = 0;
        for (; i <= n - LANES; i += LANES) {
            addF32(x + 4L * i, into + 4L * i, LANES);
        }
        if (i < n) {
            addF32(x + 4L * i, into + 4L * i, n - i);
        }
    }

    private static void addF32(long x, long into, int count) {
        Vectors.storeF32(into, count, Vectors.loadF32(into, count).add(Vectors.loadF32(x, count)));
    }

    private static void addBf16Row(long x, long into, int n) {
        int i = 0;
        for (; i <= n - LANES; i += LANES) {
            addBf16(x, into, i, LANES);
        }
        if (i < n) {
            addBf16(x, into, i, n - i);
        }
    }

    private static void addBf16(long x, long into, int i, int count) {
        FloatVector sum = Vectors.load(true, into, i, count).add(Vectors.load(true, x, i, count));
        Vectors.storeResult(true, into, i, count, sum);
    }

    private static void addHalf(long x, long into, int n) {
        for (int i = 0; i < n; i++) {
            float sum = Float.float16ToFloat(ALL.get(ValueLayout.JAVA_SHORT, into + 2L * i))
                    + Float.float16ToFloat(ALL.get(ValueLayout.JAVA_SHORT, x + 2L * i));
            ALL.set(ValueLayout.JAVA_SHORT, into + 2L * i, Float.floatToFloat16(sum));
        }
    }
}
