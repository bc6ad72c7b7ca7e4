package troika.cpu;

import static troika.cpu.Vectors.LANES;
import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.ValueLayout;
import java.util.function.IntConsumer;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#cast].
final class Cast {
    private static final int CHUNK = 1 << 16;

    private Cast() {}

    /// Casts `n` elements at an address.
    private interface Chunk {
        void run(long from, long to, int n);
    }

    static Runnable run(Workers workers, Tensor from, Tensor to) {
        if (from.dtype() == to.dtype()) {
            return MemoryOps.copy(workers, from, to);
        }
        Chunk chunk = chunk(from.dtype(), to.dtype());
        long source = from.address();
        long target = to.address();
        int sourceBytes = from.dtype().bytes();
        int targetBytes = to.dtype().bytes();
        long n = to.elements();
        int tasks = Tasks.count(n, CHUNK);
        IntConsumer task = i -> {
            long at = (long) i * CHUNK;
            chunk.run(source + at * sourceBytes, target + at * targetBytes, (int) Math.min(CHUNK, n - at));
        };
        return () -> workers.parallel(tasks, task);
    }

    private static Chunk chunk(DType from, DType to) {
        return switch (from) {
            case F32 -> to == DType.BF16 ? Cast::floatsToBf16 : Half::store;
            case BF16 -> to == DType.F32 ? Cast::bf16ToFloats : Cast::bf16ToHalf;
            case F16 -> to == DType.F32 ? Half::load : Cast::halfToBf16;
            case I32 -> throw new IllegalArgumentException("no cast from I32");
        };
    }

    private static void floatsToBf16(long from, long to, int n) {
        int i = 0;
        for (; i <= n - LANES; i += LANES) {
            Vectors.store(true, to, i, LANES, Vectors.loadF32(from + 4L * i, LANES));
        }
        if (i < n) {
            Vectors.store(true, to, i, n - i, Vectors.loadF32(from + 4L * i, n - i));
        }
    }

    private static void bf16ToFloats(long from, long to, int n) {
        int i = 0;
        for (; i <= n - LANES; i += LANES) {
            Vectors.storeF32(to + 4L * i, LANES, Vectors.load(true, from, i, LANES));
        }
        if (i < n) {
            Vectors.storeF32(to + 4L * i, n - i, Vectors.load(true, from, i, n - i));
        }
    }

    private static void bf16ToHalf(long from, long to, int n) {
        for (int i = 0; i < n; i++) {
            ALL.set(ValueLayout.JAVA_SHORT, to + 2L * i, Float.floatToFloat16(Vectors.get(true, from, i)));
        }
    }

    private static void halfToBf16(long from, long to, int n) {
        for (int i = 0; i < n; i++) {
            Vectors.put(true, to, i, Float.float16ToFloat(ALL.get(ValueLayout.JAVA_SHORT, from + 2L * i)));
        }
    }
}
