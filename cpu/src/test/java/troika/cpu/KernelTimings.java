package troika.cpu;

import com.sun.management.ThreadMXBean;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.management.ManagementFactory;
import java.util.List;
import java.util.Locale;
import java.util.Random;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// Times each Vector API kernel at the sizes of a small model, twice: `main` takes the number of threads, and a dtype
/// where it is to be the process's only one.
public final class KernelTimings {
    private static final int TOKENS = 2048;
    private static final int HIDDEN = 256;
    private static final int INTERMEDIATE = 688;
    private static final int VOCABULARY = 4096;
    private static final int PARAMETERS = 4 << 20;

    private static final ThreadMXBean THREADS = (ThreadMXBean) ManagementFactory.getThreadMXBean();

    private final Arena arena = Arena.ofShared();
    private final Random random = new Random(1);
    private final Workers workers;

    private KernelTimings(Workers workers) {
        this.workers = workers;
    }

    public static void main(String[] arguments) {
        int threads = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 2;
        try (TestWorkers workers = new TestWorkers(threads)) {
            KernelTimings timings = new KernelTimings(workers);
            for (int round = 0; round < 2; round++) {
                for (DType dtype : List.of(DType.F32, DType.BF16)) {
                    if (arguments.length < 2 || DType.valueOf(arguments[1]) == dtype) {
                        timings.run(dtype);
                    }
                }
            }
        }
    }

    private void run(DType dtype) {
        Tensor tokens = integers(VOCABULARY, TOKENS);
        Tensor hidden = floats(dtype, TOKENS, HIDDEN);
        Tensor hidden2 = floats(dtype, TOKENS, HIDDEN);
        Tensor hidden3 = floats(dtype, TOKENS, HIDDEN);
        Tensor table = floats(dtype, VOCABULARY, HIDDEN);
        Tensor gradTable = floats(DType.F32, VOCABULARY, HIDDEN);
        Tensor norm = floats(dtype, HIDDEN);
        Tensor gradNorm = floats(DType.F32, HIDDEN);
        Tensor rstd = floats(DType.F32, TOKENS);
        Tensor workspace = floats(DType.F32, 1 << 20);
        Tensor qkv = floats(dtype, TOKENS, 3 * HIDDEN);
        Tensor positions = integers(1024, TOKENS);
        Tensor angles = floats(DType.F32, 1024, 64);
        Tensor gateUp = floats(dtype, TOKENS, 2 * INTERMEDIATE);
        Tensor gradGateUp = floats(dtype, TOKENS, 2 * INTERMEDIATE);
        Tensor middle = floats(dtype, TOKENS, INTERMEDIATE);
        Tensor logits = floats(dtype, TOKENS, VOCABULARY);
        Tensor scalars = floats(DType.F32, 3);
        Tensor out = floats(DType.F32, 2);
        Tensor master = floats(DType.F32, PARAMETERS);
        Tensor moment1 = floats(DType.F32, PARAMETERS);
        Tensor moment2 = floats(DType.F32, PARAMETERS);
        Tensor gradient = floats(DType.F32, PARAMETERS);
        Tensor weight = floats(dtype, PARAMETERS);
        int e = dtype.bytes();
        long h = (long) TOKENS * HIDDEN;
        long f = (long) TOKENS * INTERMEDIATE;
        long v = (long) TOKENS * VOCABULARY;
        time(dtype, "embedding", 2 * h * e, Embedding.forward(workers, tokens, table, hidden));
        long tableBytes = 4L * VOCABULARY * HIDDEN;
        Runnable embeddingBackward = Embedding.backward(workers, tokens, hidden, gradTable, false);
        time(dtype, "embeddingBackward", tableBytes + h * (8 + e), embeddingBackward);
        time(dtype, "rmsNorm", 2 * h * e, RmsNorm.forward(workers, hidden, norm, 1e-6f, hidden2, rstd));
        Runnable rmsNormBackward =
                RmsNorm.backward(workers, hidden, hidden2, norm, rstd, hidden3, hidden3, gradNorm, true, workspace);
        time(dtype, "rmsNormBackward", 4 * h * e, rmsNormBackward);
        time(dtype, "rope", 4 * h * e, Rope.rotate(workers, qkv, positions, angles, 8, 64, false));
        time(dtype, "swiglu", 3 * f * e, SwiGlu.forward(workers, gateUp, middle));
        time(dtype, "swigluBackward", 5 * f * e, SwiGlu.backward(workers, middle, gateUp, gradGateUp));
        Tensor loss = out;
        Runnable evaluate = CrossEntropy.run(workers, logits, tokens, scalars, loss, false, false, workspace);
        time(dtype, "crossEntropy", v * e, evaluate);
        Runnable train = CrossEntropy.run(workers, logits, tokens, scalars, loss, true, false, workspace);
        time(dtype, "crossEntropy gradient", 2 * v * e, train);
        time(dtype, "sumSquares", 4L * PARAMETERS, Optimizer.sumSquares(workers, gradient, out, false, workspace));
        Runnable adamw = Optimizer.adamw(
                workers,
                master,
                moment1,
                moment2,
                gradient,
                weight,
                out,
                scalars,
                PARAMETERS / 2,
                0.9f,
                0.95f,
                1e-8f,
                0.1f);
        time(dtype, "adamw", (28L + e) * PARAMETERS, adamw);
        time(dtype, "zero", 4L * PARAMETERS, MemoryOps.zero(workers, gradient));
        time(dtype, "copy", 8L * PARAMETERS, MemoryOps.copy(workers, master, gradient));
        time(dtype, "add", 12L * PARAMETERS, MemoryOps.add(workers, master, gradient));
    }

    private static void time(DType dtype, String name, long bytes, Runnable kernel) {
        for (int i = 0; i < 100; i++) {
            kernel.run();
        }
        long best = Long.MAX_VALUE;
        long total = 0;
        long allocated = THREADS.getCurrentThreadAllocatedBytes();
        int runs = 40;
        for (int i = 0; i < runs; i++) {
            long start = System.nanoTime();
            kernel.run();
            long nanos = System.nanoTime() - start;
            best = Math.min(best, nanos);
            total += nanos;
        }
        allocated = THREADS.getCurrentThreadAllocatedBytes() - allocated;
        System.out.printf(
                Locale.ROOT,
                "%-5s %-22s best %8.1f us  mean %8.1f us  %6.1f GB/s  %d B allocated%n",
                dtype,
                name,
                best / 1e3,
                total / 1e3 / runs,
                (double) bytes / best,
                allocated / runs);
    }

    private Tensor floats(DType dtype, long... sizes) {
        Tensor tensor = allocate(dtype, sizes);
        boolean bf16 = dtype == DType.BF16;
        for (int i = 0; i < tensor.elements(); i++) {
            Vectors.put(bf16, tensor.address(), i, random.nextFloat());
        }
        return tensor;
    }

    private Tensor integers(int bound, long... sizes) {
        Tensor tensor = allocate(DType.I32, sizes);
        MemorySegment segment = MemorySegment.ofAddress(tensor.address()).reinterpret(tensor.bytes());
        for (int i = 0; i < tensor.elements(); i++) {
            segment.setAtIndex(ValueLayout.JAVA_INT, i, random.nextInt(bound));
        }
        return tensor;
    }

    private Tensor allocate(DType dtype, long... sizes) {
        Shape shape = Shape.of(sizes);
        long bytes = shape.elements() * dtype.bytes();
        Memory memory = new Memory("test", arena.allocate(bytes, 4096).address(), bytes, true);
        return memory.tensor(0, dtype, shape);
    }
}
