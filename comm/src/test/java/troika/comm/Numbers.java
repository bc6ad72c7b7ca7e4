package troika.comm;

import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import troika.ffi.NativeMemory;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// Tensors in native memory, and their elements as numbers.
final class Numbers implements AutoCloseable {
    private final List<Memory> memories = new ArrayList<>();

    /// A tensor of zeros that does not lie at the start of its memory.
    Tensor tensor(DType dtype, long elements) {
        long bytes = 64 + elements * dtype.bytes();
        Memory memory = new Memory("test", NativeMemory.allocate(bytes), bytes, true);
        memories.add(memory);
        return memory.tensor(4, dtype, new Shape(elements));
    }

    Tensor random(Random random, DType dtype, long elements) {
        Tensor tensor = tensor(dtype, elements);
        for (long i = 0; i < elements; i++) {
            // Of different sizes, so that the order of a sum shows.
            set(tensor, i, (float) (random.nextGaussian() * Math.scalb(1f, random.nextInt(12))));
        }
        return tensor;
    }

    static Tensor part(Tensor tensor, long first, long count) {
        return tensor.memory()
                .tensor(tensor.offset() + first * tensor.dtype().bytes(), tensor.dtype(), new Shape(count));
    }

    static void set(Tensor tensor, long i, float x) {
        long at = tensor.address() + i * tensor.dtype().bytes();
        switch (tensor.dtype()) {
            case F32 -> ALL.set(ValueLayout.JAVA_FLOAT_UNALIGNED, at, x);
            case I32 -> ALL.set(ValueLayout.JAVA_INT_UNALIGNED, at, (int) x);
            case BF16, F16 -> ALL.set(ValueLayout.JAVA_SHORT_UNALIGNED, at, bits(tensor.dtype(), x));
        }
    }

    static float get(Tensor tensor, long i) {
        long at = tensor.address() + i * tensor.dtype().bytes();
        return switch (tensor.dtype()) {
            case F32 -> ALL.get(ValueLayout.JAVA_FLOAT_UNALIGNED, at);
            case I32 -> ALL.get(ValueLayout.JAVA_INT_UNALIGNED, at);
            case BF16 -> Float.intBitsToFloat(ALL.get(ValueLayout.JAVA_SHORT_UNALIGNED, at) << 16);
            case F16 -> Float.float16ToFloat(ALL.get(ValueLayout.JAVA_SHORT_UNALIGNED, at));
        };
    }

    /// x as it is after being written to a tensor of a dtype.
    static float rounded(DType dtype, double x) {
        return switch (dtype) {
            case F32, I32 -> (float) x;
            case BF16 -> Float.intBitsToFloat(bits(dtype, (float) x) << 16);
            case F16 -> Float.float16ToFloat(bits(dtype, (float) x));
        };
    }

    private static short bits(DType dtype, float x) {
        if (dtype == DType.F16) {
            return Float.floatToFloat16(x);
        }
        if (Float.isNaN(x)) {
            return 0x7fc0;
        }
        // The nearer of the two neighbours, the even one of two that are equally near.
        int low = Float.floatToRawIntBits(x) & 0xffff0000;
        int rest = Float.floatToRawIntBits(x) & 0xffff;
        boolean up = rest > 0x8000 || (rest == 0x8000 && (low & 0x10000) != 0);
        return (short) ((low + (up ? 0x10000 : 0)) >>> 16);
    }

    static float[] floats(Tensor tensor) {
        float[] floats = new float[(int) tensor.elements()];
        for (int i = 0; i < floats.length; i++) {
            floats[i] = get(tensor, i);
        }
        return floats;
    }

    static byte[] bytes(Tensor tensor) {
        byte[] bytes = new byte[(int) tensor.bytes()];
        MemorySegment.copy(ALL, ValueLayout.JAVA_BYTE, tensor.address(), bytes, 0, bytes.length);
        return bytes;
    }

    @Override
    public void close() {
        memories.forEach(memory -> NativeMemory.free(memory.address()));
    }
}
