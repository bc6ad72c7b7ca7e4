package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// Sums of parts are those of floats in the order of parts, rounded once, bit for bit; skipped where there is no card.
@Tag("gpu")
final class CollectiveKernelTest {
    private static final int MOST = 16;
    private static final int BLOCK = 256;

    /// @param offset where parts begin, and where `out` does, in elements past a multiple of 16 bytes
    /// @param into the part that `out` is, or -1 for memory of its own
    @ParameterizedTest
    @CsvSource({
        "F32, 1, 1003, 0, 0, -1, 7",
        "F32, 3, 100003, 0, 0, 1, 40",
        "F32, 16, 1003, 3, 3, -1, 1",
        "F32, 5, 1003, 3, 2, -1, 1",
        "BF16, 3, 100003, 0, 0, 2, 40",
        "BF16, 3, 100003, 5, 5, 0, 3",
        "BF16, 4, 9, 7, 7, -1, 1",
        "BF16, 9, 5003, 1, 0, -1, 2",
        "F16, 2, 100003, 0, 0, 0, 13",
        "F16, 16, 5003, 1, 1, 15, 2",
        "F16, 6, 3, 4, 4, -1, 5"
    })
    void sumsInOrder(DType dtype, int parts, int n, int offset, int outOffset, int into, int grid) {
        try (CudaDevice device = Cards.open();
                Arena arena = Arena.ofConfined()) {
            int each = (n + 31) / 16 * 16;
            Memory memory = device.allocate("parts", (long) (MOST + 1) * each * dtype.bytes());
            CudaStream stream = (CudaStream) device.stream("test", null);
            Random random = new Random(1);
            float[] sums = new float[n];
            Object[] arguments = new Object[MOST + 3];
            Arrays.fill(arguments, 0L);
            for (int part = 0; part < parts; part++) {
                Tensor tensor = tensor(memory, part, each, offset, dtype, n);
                MemorySegment values = arena.allocate(tensor.bytes(), 16);
                for (int i = 0; i < n; i++) {
                    float value = put(values, dtype, i, (float) random.nextGaussian());
                    sums[i] = part == 0 ? value : sums[i] + value;
                }
                device.write(tensor, values);
                arguments[part] = tensor.address();
            }
            Tensor out = into < 0
                    ? tensor(memory, MOST, each, outOffset, dtype, n)
                    : tensor(memory, into, each, offset, dtype, n);
            arguments[MOST] = out.address();
            arguments[MOST + 1] = parts;
            arguments[MOST + 2] = (long) n;
            MemorySegment expected = arena.allocate(out.bytes(), 16);
            for (int i = 0; i < n; i++) {
                put(expected, dtype, i, sums[i]);
            }

            device.function("collective", "sum_parts_" + Launch.suffix(dtype))
                    .launch(stream, grid, BLOCK, 0, arguments);
            stream.synchronize();

            MemorySegment actual = arena.allocate(out.bytes(), 16);
            device.read(out, actual);
            assertThat(actual.mismatch(expected)).as("first byte that differs").isEqualTo(-1);
            stream.close();
            device.free(memory);
        }
    }

    private static Tensor tensor(Memory memory, int part, int each, int offset, DType dtype, int n) {
        return memory.tensor(((long) part * each + offset) * dtype.bytes(), dtype, Shape.of(n));
    }

    /// Stores a rounded number and returns it.
    private static float put(MemorySegment segment, DType dtype, int i, float value) {
        return switch (dtype) {
            case F32 -> {
                segment.setAtIndex(ValueLayout.JAVA_FLOAT, i, value);
                yield value;
            }
            case BF16 -> {
                int bits = Float.floatToRawIntBits(value);
                int rounded = (bits + 0x7fff + (bits >>> 16 & 1)) >>> 16;
                segment.setAtIndex(ValueLayout.JAVA_SHORT, i, (short) rounded);
                yield Float.intBitsToFloat(rounded << 16);
            }
            case F16 -> {
                short rounded = Float.floatToFloat16(value);
                segment.setAtIndex(ValueLayout.JAVA_SHORT, i, rounded);
                yield Float.float16ToFloat(rounded);
            }
            default -> throw new IllegalArgumentException(dtype + " is not summed");
        };
    }
}
