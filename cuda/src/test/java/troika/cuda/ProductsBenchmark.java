package troika.cuda;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Times every matrix product of a training step through [Products], captured in graphs as the engine does it, and
/// prints a line each and the step's sum. The layers are those of a LLaMA with as many key-value heads as heads.
///
/// Arguments: tokens of a microbatch, hidden size, intermediate size, layers, vocabulary; then, if wanted, BF16, F16
/// or F32, and the word `first` for the heuristic's choices instead of timed ones. Figures of timed ones are those of a
/// warm cache from the second run on.
final class ProductsBenchmark implements AutoCloseable {
    /// More than the L2 cache of any card, so that no product finds its operands there.
    private static final long ROTATED_BYTES = 512L << 20;

    private static final int MOST_SETS = 16;
    private static final float MEASURED_MILLISECONDS = 60;
    private static final int REPETITIONS = 5;

    private final DType dtype;
    private final CudaDevice device;
    private final Products products;
    private final CudaStream stream;
    private final ProductTimer filler = new ProductTimer();
    private final long start = Driver.eventCreate(true);
    private final long stop = Driver.eventCreate(true);
    private double milliseconds;
    private double operations;

    private ProductsBenchmark(CudaDevice device, DType dtype) {
        this.device = device;
        this.dtype = dtype;
        products = new Products(device);
        Memory workspace = device.allocate("workspace", device.workspaceBytes());
        stream = (CudaStream)
                device.stream("benchmark", workspace.tensor(0, DType.F32, Shape.of(device.workspaceBytes() / 4)));
    }

    public static void main(String[] arguments) {
        long tokens = Long.parseLong(arguments[0]);
        long hidden = Long.parseLong(arguments[1]);
        long intermediate = Long.parseLong(arguments[2]);
        long layers = Long.parseLong(arguments[3]);
        long vocabulary = Long.parseLong(arguments[4]);
        List<String> options = List.of(arguments).subList(5, arguments.length);
        DType dtype = DType.valueOf(
                options.stream().filter(o -> !o.equals("first")).findFirst().orElse("BF16"));
        CudaDevice device = (CudaDevice)
                new CudaDeviceProvider().open("0", options.contains("first")).getFirst();
        device.bind();
        System.out.println(device.name() + ", cuBLASLt " + CublasLt.version());
        try (ProductsBenchmark benchmark = new ProductsBenchmark(device, dtype)) {
            benchmark.layer("query, key, value", tokens, hidden, 3 * hidden, layers, false);
            benchmark.layer("attention's output", tokens, hidden, hidden, layers, true);
            benchmark.layer("gate, up", tokens, hidden, 2 * intermediate, layers, false);
            benchmark.layer("down", tokens, intermediate, hidden, layers, true);
            long rows = Math.clamp(CudaDevice.LOGITS_AT_A_TIME / vocabulary, 1, tokens);
            benchmark.layer("head", rows, hidden, vocabulary, Math.ceilDiv(tokens, rows), false);
            benchmark.print("step", "", benchmark.milliseconds, benchmark.operations);
            System.out.println();
            for (Map.Entry<String, String> choice : benchmark.products.choices().entrySet()) {
                System.out.println(choice.getKey() + ": " + choice.getValue());
            }
        }
    }

    /// One call of a product, on one set of tensors.
    private interface Enqueue {
        void call(Tensor wide, Tensor narrow, Tensor result);
    }

    private void layer(String name, long rows, long inputs, long outputs, long times, boolean residual) {
        Shape x = Shape.of(rows, inputs);
        Shape weight = Shape.of(outputs, inputs);
        Shape out = Shape.of(rows, outputs);
        product(
                name,
                "forward",
                times,
                x,
                weight,
                dtype,
                out,
                (a, b, c) -> products.linear(stream, a, b, residual ? c : null, c));
        product(
                name,
                "backward input",
                times,
                out,
                weight,
                dtype,
                x,
                (a, b, c) -> products.linearBackwardInput(stream, a, b, c));
        product(
                name,
                "backward weight",
                times,
                out,
                x,
                DType.F32,
                weight,
                (a, b, c) -> products.linearBackwardWeight(stream, a, b, c, true));
    }

    private void product(
            String name, String kind, long times, Shape a, Shape b, DType result, Shape c, Enqueue enqueue) {
        long bytesA = aligned(a.elements() * dtype.bytes());
        long bytesB = aligned(b.elements() * dtype.bytes());
        long bytesC = aligned(c.elements() * result.bytes());
        long bytes = bytesA + bytesB + bytesC;
        int sets = Math.toIntExact(Math.clamp(Math.ceilDiv(ROTATED_BYTES, bytes), 2, MOST_SETS));
        Memory memory = device.allocate(name, sets * bytes);
        try {
            List<Runnable> calls = new ArrayList<>();
            for (int i = 0; i < sets; i++) {
                Tensor first = memory.tensor(i * bytes, dtype, a);
                Tensor second = memory.tensor(i * bytes + bytesA, dtype, b);
                Tensor third = memory.tensor(i * bytes + bytesA + bytesB, result, c);
                calls.add(() -> enqueue.call(first, second, third));
            }
            Stream.Graph once = captured(calls, 1);
            for (int i = 0; i < sets; i++) {
                filler.fill(memory.address() + i * bytes, bytesA + bytesB, dtype);
                filler.fill(memory.address() + i * bytes + bytesA + bytesB, bytesC, result);
            }
            timed(once);
            int rounds = Math.clamp((long) Math.ceil(MEASURED_MILLISECONDS / timed(once)), 1, 64);
            Stream.Graph graph = captured(calls, rounds);
            timed(graph);
            float best = Float.POSITIVE_INFINITY;
            for (int i = 0; i < REPETITIONS; i++) {
                best = Math.min(best, timed(graph));
            }
            double one = best / ((double) rounds * sets);
            // The sums of a and b go over what they share: rows, inputs or outputs.
            double flops = 2 * Math.sqrt((double) a.elements() * b.elements() * c.elements());
            print(name + ", " + kind, a + " " + b + " " + c, one, flops);
            milliseconds += one * times;
            operations += flops * times;
        } finally {
            device.free(memory);
        }
    }

    private static long aligned(long bytes) {
        return Math.ceilDiv(bytes, 256) * 256;
    }

    private Stream.Graph captured(List<Runnable> calls, int rounds) {
        stream.beginCapture();
        for (int i = 0; i < rounds; i++) {
            calls.forEach(Runnable::run);
        }
        return stream.endCapture();
    }

    private float timed(Stream.Graph graph) {
        Driver.eventRecord(start, stream.handle());
        stream.launch(graph);
        Driver.eventRecord(stop, stream.handle());
        stream.synchronize();
        return Driver.eventElapsed(start, stop);
    }

    private void print(String name, String shapes, double time, double flops) {
        System.out.printf(Locale.ROOT, "%-36s %-46s %9.4f ms %6.1f TFLOP/s%n", name, shapes, time, flops / time / 1e9);
    }

    @Override
    public void close() {
        Driver.eventDestroy(start);
        Driver.eventDestroy(stop);
        filler.close();
        products.close();
        device.close();
    }
}
