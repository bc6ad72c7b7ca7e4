package troika.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.LinkedHashSet;
import java.util.Set;
import java.util.SplittableRandom;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Times attention on card 0, forward and backward, in BF16: milliseconds, and TFLOP/s of causal attention over whole
/// sequences (4, or 10 for the backward, multiplied by batch, heads, sequence², head size and a half). Packed sequences
/// hold documents of about 500 tokens; their TFLOP/s count the same, so that they compare times.
final class AttentionBenchmark {
    private static final int DOCUMENT = 500;
    private static final int WARM_UP = 3;
    private static final int RUNS = 20;

    private final CudaDevice device;
    private final CudaStream stream;

    private AttentionBenchmark(CudaDevice device, CudaStream stream) {
        this.device = device;
        this.stream = stream;
    }

    /// Arguments: none.
    public static void main(String[] arguments) {
        int[][] sizes = {{8, 2048, 16, 128}, {8, 4096, 16, 128}, {4, 2048, 32, 128}, {8, 256, 8, 32}};
        Set<String> notes = new LinkedHashSet<>();
        for (boolean deterministic : new boolean[] {false, true}) {
            try (CudaDevice device = (CudaDevice)
                    new CudaDeviceProvider().open("0", deterministic).getFirst()) {
                System.out.println(device.name() + (deterministic ? ", deterministic" : ""));
                Memory workspace = device.allocate("workspace", device.workspaceBytes());
                CudaStream stream = (CudaStream) device.stream(
                        "benchmark", workspace.tensor(0, DType.F32, Shape.of(device.workspaceBytes() / 4)));
                AttentionBenchmark benchmark = new AttentionBenchmark(device, stream);
                for (boolean own : new boolean[] {false, true}) {
                    for (boolean packed : new boolean[] {false, true}) {
                        for (int i = 0; i < (own ? 1 : sizes.length); i++) {
                            int[] size = sizes[i];
                            AttentionShape shape =
                                    new AttentionShape(size[0], size[1], size[2], size[2], size[3], packed);
                            try (Attention attention = new Attention(device, own)) {
                                benchmark.time(attention, shape, own);
                                notes.addAll(attention.notes());
                            }
                        }
                    }
                }
            }
        }
        notes.forEach(System.out::println);
    }

    private void time(Attention attention, AttentionShape shape, boolean own) {
        long rows = (long) shape.batch() * shape.sequence();
        long columns = (long) shape.heads() * shape.headSize();
        Memory memory = device.allocate(
                "tensors", 2 * rows * (2L * shape.qkvColumns() + 2 * columns) + 4 * rows * (shape.heads() + 1L) + 4096);
        long[] used = {0};
        Tensor qkv = normal(memory, used, rows, shape.qkvColumns());
        Tensor gradOut = normal(memory, used, rows, columns);
        Tensor gradQkv = tensor(memory, used, DType.BF16, rows, shape.qkvColumns());
        Tensor out = tensor(memory, used, DType.BF16, rows, columns);
        Tensor logSumExp = tensor(memory, used, DType.F32, rows, shape.heads());
        Tensor positions = tensor(memory, used, DType.I32, rows);
        try (Arena host = Arena.ofConfined()) {
            MemorySegment segment = host.allocate(positions.bytes(), 16);
            for (int t = 0; t < rows; t++) {
                int i = t % shape.sequence();
                segment.setAtIndex(ValueLayout.JAVA_INT, t, shape.packed() ? i % DOCUMENT : i);
            }
            device.write(positions, segment);
        }
        float forward = milliseconds(() -> attention.attention(stream, shape, qkv, positions, out, logSumExp));
        float backward = milliseconds(
                () -> attention.attentionBackward(stream, shape, gradOut, qkv, positions, out, logSumExp, gradQkv));
        double flops = 0.5 * shape.batch() * shape.heads() * shape.sequence() * shape.sequence() * shape.headSize();
        System.out.printf(
                "%d x %d x %d x %d %-6s %-5s forward %7.3f ms %6.1f TFLOP/s, backward %7.3f ms %6.1f TFLOP/s%n",
                shape.batch(),
                shape.heads(),
                shape.sequence(),
                shape.headSize(),
                shape.packed() ? "packed" : "dense",
                own ? "own" : "",
                forward,
                4 * flops / forward / 1e9,
                backward,
                10 * flops / backward / 1e9);
        device.free(memory);
    }

    private static Tensor tensor(Memory memory, long[] used, DType dtype, long... sizes) {
        Tensor tensor = memory.tensor(used[0], dtype, Shape.of(sizes));
        used[0] += Math.ceilDiv(tensor.bytes(), 256L) * 256;
        return tensor;
    }

    private Tensor normal(Memory memory, long[] used, long rows, long columns) {
        Tensor tensor = tensor(memory, used, DType.BF16, rows, columns);
        SplittableRandom random = new SplittableRandom(rows + columns);
        try (Arena host = Arena.ofConfined()) {
            MemorySegment segment = host.allocate(tensor.bytes(), 16);
            for (long i = 0; i < tensor.elements(); i++) {
                int bits = Float.floatToRawIntBits((float) random.nextGaussian());
                segment.setAtIndex(ValueLayout.JAVA_SHORT, i, (short) (bits >>> 16));
            }
            device.write(tensor, segment);
        }
        return tensor;
    }

    /// Of one call, launched from a graph as a training step launches it.
    private float milliseconds(Runnable call) {
        stream.beginCapture();
        call.run();
        Stream.Graph graph = stream.endCapture();
        for (int i = 0; i < WARM_UP; i++) {
            stream.launch(graph);
        }
        long start = Driver.eventCreate(true);
        long end = Driver.eventCreate(true);
        Driver.eventRecord(start, stream.handle());
        for (int i = 0; i < RUNS; i++) {
            stream.launch(graph);
        }
        Driver.eventRecord(end, stream.handle());
        Driver.eventSynchronize(end);
        float milliseconds = Driver.eventElapsed(start, end) / RUNS;
        Driver.eventDestroy(start);
        Driver.eventDestroy(end);
        return milliseconds;
    }
}
