package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

/// A device, a stream and an arena in which tests of kernels make tensors. All of the arena that no test has written
/// is NaN, in every dtype: outputs start poisoned, and what a kernel writes outside of its tensors is found.
public final class KernelsFixture implements AutoCloseable {
    private static final long BYTES = 12L << 20;
    private static final long GAP = 256;

    private final Device device;
    private final Memory memory;
    private final Memory workspace;
    private final Stream stream;
    private final Arena host = Arena.ofShared();
    private final MemorySegment poison = host.allocate(BYTES, 64);
    private final List<long[]> tensors = new ArrayList<>();
    private final Random random = new Random(1);
    private long used;

    /// @param workspaceBytes as [DeviceNeeds#workspaceBytes] of the device
    public KernelsFixture(Device device, long workspaceBytes) {
        this.device = device;
        memory = device.allocate("test arena", BYTES);
        workspace = device.allocate("test workspace", workspaceBytes);
        stream = device.stream("test", workspace.tensor(0, DType.F32, Shape.of(workspaceBytes / DType.F32.bytes())));
        poison.fill((byte) 0xff);
        clear();
    }

    /// Forgets all tensors and poisons their memory.
    void clear() {
        device.write(whole(BYTES), poison);
        tensors.clear();
        used = GAP;
        random.setSeed(1);
    }

    private Tensor whole(long bytes) {
        return memory.tensor(0, DType.I32, Shape.of(bytes / 4));
    }

    Device device() {
        return device;
    }

    /// Makes the next tensor begin one element past an aligned address.
    void misalign(DType dtype) {
        used += dtype.bytes();
    }

    /// A tensor of NaN.
    Tensor poisoned(DType dtype, long... sizes) {
        Tensor tensor = memory.tensor(used, dtype, Shape.of(sizes));
        tensors.add(new long[] {used, used + tensor.bytes()});
        used = (used + tensor.bytes() + 2 * GAP - 1) / GAP * GAP;
        return tensor;
    }

    /// A tensor of normally distributed numbers.
    Tensor normal(DType dtype, long... sizes) {
        Tensor tensor = poisoned(dtype, sizes);
        write(tensor, gaussians(tensor.elements(), 1));
        return tensor;
    }

    double[] gaussians(long n, double deviation) {
        return random.doubles(n).map(x -> deviation * random.nextGaussian()).toArray();
    }

    Tensor integers(int... values) {
        Tensor tensor = poisoned(DType.I32, values.length);
        try (Arena arena = Arena.ofConfined()) {
            device.write(tensor, arena.allocateFrom(ValueLayout.JAVA_INT, values));
        }
        return tensor;
    }

    /// Numbers in [0, bound).
    int[] indices(int n, int bound) {
        return random.ints(n, 0, bound).toArray();
    }

    Tensor floats(double... values) {
        Tensor tensor = poisoned(DType.F32, values.length);
        write(tensor, values);
        return tensor;
    }

    void write(Tensor tensor, double[] values) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment segment = arena.allocate(Math.max(1, tensor.bytes()), 16);
            for (int i = 0; i < values.length; i++) {
                switch (tensor.dtype()) {
                    case F32 -> segment.setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) values[i]);
                    case BF16 -> segment.setAtIndex(ValueLayout.JAVA_SHORT, i, bf16((float) values[i]));
                    case F16 -> segment.setAtIndex(ValueLayout.JAVA_SHORT, i, Float.floatToFloat16((float) values[i]));
                    case I32 -> throw new IllegalArgumentException("integers() makes tensors of integers");
                }
            }
            device.write(tensor, segment.asSlice(0, tensor.bytes()));
        }
    }

    double[] read(Tensor tensor) {
        double[] values = new double[Math.toIntExact(tensor.elements())];
        MemorySegment segment = bytes(tensor);
        for (int i = 0; i < values.length; i++) {
            values[i] = switch (tensor.dtype()) {
                case F32 -> segment.getAtIndex(ValueLayout.JAVA_FLOAT, i);
                case BF16 -> Float.intBitsToFloat(segment.getAtIndex(ValueLayout.JAVA_SHORT, i) << 16);
                case I32 -> segment.getAtIndex(ValueLayout.JAVA_INT, i);
                case F16 -> Float.float16ToFloat(segment.getAtIndex(ValueLayout.JAVA_SHORT, i));
            };
        }
        return values;
    }

    /// A copy of a tensor's bytes.
    MemorySegment bytes(Tensor tensor) {
        MemorySegment segment = Arena.ofAuto().allocate(Math.max(16, tensor.bytes()), 16);
        device.read(tensor, segment.asSlice(0, tensor.bytes()));
        return segment.asSlice(0, tensor.bytes());
    }

    /// The bits of x rounded to the nearest BF16, ties to even.
    static short bf16(float x) {
        double magnitude = Math.abs((double) x);
        if (Double.isNaN(magnitude)) {
            return 0x7fc0;
        }
        double unit = Math.scalb(1.0, Math.max(Math.getExponent(magnitude), Float.MIN_EXPONENT) - 7);
        float rounded = (float) Math.copySign(Math.rint(magnitude / unit) * unit, x);
        return (short) (Float.floatToRawIntBits(rounded) >>> 16);
    }

    /// What the kernels are called with.
    interface Call {
        void enqueue(Kernels kernels, Stream stream);
    }

    /// Runs a kernel; then again, with everything as it was before and from a captured graph, which must give the same
    /// bits everywhere. Checks that nothing outside of the tensors was written.
    void run(Call call) {
        long bytes = (used + 3) / 4 * 4;
        Tensor everything = whole(bytes);
        MemorySegment before = bytes(everything);
        call.enqueue(device.kernels(), stream);
        stream.synchronize();
        MemorySegment after = bytes(everything);

        device.write(everything, before);
        stream.beginCapture();
        call.enqueue(device.kernels(), stream);
        Stream.Graph graph = stream.endCapture();
        stream.launch(graph);
        stream.synchronize();
        assertThat(bytes(everything).mismatch(after))
                .as("first byte in which a second run from a graph differs")
                .isEqualTo(-1);

        long at = 0;
        for (long[] tensor : tensors) {
            assertPoison(after, at, tensor[0]);
            at = tensor[1];
        }
        assertPoison(after, at, bytes);
    }

    private void assertPoison(MemorySegment segment, long from, long to) {
        MemorySegment part = segment.asSlice(from, to - from);
        assertThat(part.mismatch(poison.asSlice(0, part.byteSize())))
                .as("first byte written outside of all tensors, after byte " + from)
                .isEqualTo(-1);
    }

    /// The relative error in the L2 norm is within what the dtype of the computation allows.
    void assertClose(DType computed, Tensor actual, double[] expected) {
        assertClose(computed, read(actual), expected);
    }

    static void assertClose(DType computed, double[] actual, double[] expected) {
        assertThat(actual).hasSameSizeAs(expected);
        double error = 0;
        double norm = 0;
        for (int i = 0; i < expected.length; i++) {
            error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
            norm += expected[i] * expected[i];
        }
        double tolerance = switch (computed) {
            case F32 -> 1e-5;
            // Three bits more than BF16, so an eighth of its tolerance.
            case F16 -> 1.25e-3;
            case BF16 -> 1e-2;
            case I32 -> 0;
        };
        assertThat(Math.sqrt(error)).as("error").isLessThanOrEqualTo(tolerance * Math.sqrt(norm) + 1e-30);
    }

    static double[] sum(double[] a, double[] b) {
        double[] c = a.clone();
        for (int i = 0; i < c.length; i++) {
            c[i] += b[i];
        }
        return c;
    }

    @Override
    public void close() {
        stream.close();
        device.free(workspace);
        device.free(memory);
        device.close();
        host.close();
    }
}
