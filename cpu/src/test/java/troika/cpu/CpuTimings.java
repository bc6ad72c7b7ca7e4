package troika.cpu;

import java.lang.foreign.ValueLayout;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.util.Locale;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.BiConsumer;
import troika.ffi.NativeMemory;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.Kernels;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Times products and attention on a device at the sizes of a small model: `main` takes a specification of devices.
final class CpuTimings {
    private static final int TOKENS = 2048;

    private final Device device;
    private final Memory memory;
    private final Stream stream;
    private long used;

    private CpuTimings(Device device) {
        this.device = device;
        memory = device.allocate("timings", 1L << 30);
        Memory workspace = device.allocate("workspace", device.workspaceBytes());
        stream = device.stream("timings", workspace.tensor(0, DType.F32, Shape.of(device.workspaceBytes() / 4)));
    }

    public static void main(String[] arguments) {
        String specification = arguments.length > 0 ? arguments[0] : "1";
        try (Device device = new CpuDeviceProvider().open(specification).getFirst()) {
            System.out.println(device.name());
            for (DType dtype : new DType[] {DType.BF16, DType.F32}) {
                CpuTimings timings = new CpuTimings(device);
                timings.attention(dtype, new AttentionShape(8, 256, 8, 8, 32));
                timings.products(dtype);
                timings.attention(dtype, new AttentionShape(1, 2048, 16, 4, 128));
                timings.stream.close();
                device.free(timings.memory);
            }
        }
    }

    private void products(DType dtype) {
        for (int[] size : new int[][] {{256, 768}, {256, 256}, {256, 1376}, {688, 256}, {256, 4096}, {768, 4096}}) {
            int k = size[0];
            int n = size[1];
            used = 0;
            Tensor x = tensor(dtype, TOKENS, k);
            Tensor weight = tensor(dtype, n, k);
            Tensor out = tensor(dtype, TOKENS, n);
            Tensor gradWeight = tensor(DType.F32, n, k);
            double flops = 2.0 * TOKENS * k * n;
            String sizes = dtype + " " + k + " -> " + n;
            time("linear " + sizes, flops, (kernels, s) -> kernels.linear(s, x, weight, null, out));
            if (k <= 688 && n == 256) {
                Tensor residual = tensor(dtype, TOKENS, n);
                time("  + residual", flops, (kernels, s) -> kernels.linear(s, x, weight, residual, out));
                time("  in place", flops, (kernels, s) -> kernels.linear(s, x, weight, out, out));
            }
            time("  backwardInput", flops, (kernels, s) -> kernels.linearBackwardInput(s, out, weight, x));
            time("  backwardWeight", flops, (kernels, s) -> kernels.linearBackwardWeight(s, out, x, gradWeight, false));
            time("  accumulated", flops, (kernels, s) -> kernels.linearBackwardWeight(s, out, x, gradWeight, true));
        }
    }

    private void attention(DType dtype, AttentionShape shape) {
        used = 0;
        int tokens = shape.batch() * shape.sequence();
        Tensor qkv = tensor(dtype, tokens, shape.qkvColumns());
        Tensor gradQkv = tensor(dtype, tokens, shape.qkvColumns());
        Tensor out = tensor(dtype, tokens, (long) shape.heads() * shape.headSize());
        Tensor gradOut = tensor(dtype, tokens, (long) shape.heads() * shape.headSize());
        Tensor logSumExp = tensor(DType.F32, tokens, shape.heads());
        Tensor positions = tensor(DType.I32, tokens);
        for (int t = 0; t < tokens; t++) {
            NativeMemory.ALL.set(ValueLayout.JAVA_INT, positions.address() + 4L * t, t % shape.sequence());
        }
        double flops = 2.0 * tokens * shape.sequence() * shape.heads() * shape.headSize();
        time(
                "attention " + dtype + " " + shape,
                flops,
                (kernels, s) -> kernels.attention(s, shape, qkv, positions, out, logSumExp));
        time(
                "  backward",
                flops * 2.5,
                (kernels, s) -> kernels.attentionBackward(s, shape, gradOut, qkv, positions, out, logSumExp, gradQkv));
    }

    private Tensor tensor(DType dtype, long... sizes) {
        Tensor tensor = memory.tensor(used, dtype, Shape.of(sizes));
        used += (tensor.bytes() + 4095) / 4096 * 4096;
        if (dtype.isFloating()) {
            Random random = new Random(1);
            for (int i = 0; i < tensor.elements(); i++) {
                Vectors.put(dtype == DType.BF16, tensor.address(), i, (float) random.nextGaussian());
            }
        }
        return tensor;
    }

    private void time(String name, double flops, BiConsumer<Kernels, Stream> kernel) {
        stream.beginCapture();
        kernel.accept(device.kernels(), stream);
        Stream.Graph graph = stream.endCapture();
        long best = Long.MAX_VALUE;
        long bestWall = Long.MAX_VALUE;
        ThreadMXBean threads = ManagementFactory.getThreadMXBean();
        AtomicLong from = new AtomicLong();
        AtomicLong to = new AtomicLong();
        for (int round = 0; round < 600; round++) {
            stream.enqueue(() -> from.set(threads.getCurrentThreadCpuTime()));
            long start = System.nanoTime();
            stream.launch(graph);
            stream.enqueue(() -> to.set(threads.getCurrentThreadCpuTime()));
            stream.synchronize();
            bestWall = Math.min(bestWall, System.nanoTime() - start);
            best = Math.min(best, to.get() - from.get());
        }
        System.out.printf(
                Locale.ROOT,
                "%-60s %9.1f us, %9.1f us of the stream's thread, %7.1f GFLOP/s%n",
                name,
                bestWall / 1e3,
                best / 1e3,
                flops / bestWall);
    }
}
