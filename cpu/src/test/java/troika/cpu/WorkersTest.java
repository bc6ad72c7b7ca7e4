package troika.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// The number of threads changes no bit of what the Vector API kernels compute.
final class WorkersTest {
    private static final long BYTES = 32L << 20;

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16"})
    void threadsChangeNothing(DType dtype) {
        try (Arena arena = Arena.ofShared();
                TestWorkers one = new TestWorkers(1);
                TestWorkers two = new TestWorkers(2);
                TestWorkers five = new TestWorkers(5)) {
            MemorySegment expected = everyKernel(arena, one, dtype);
            assertThat(everyKernel(arena, two, dtype).mismatch(expected)).isEqualTo(-1);
            assertThat(everyKernel(arena, five, dtype).mismatch(expected)).isEqualTo(-1);
        }
    }

    private static MemorySegment everyKernel(Arena arena, Workers workers, DType dtype) {
        MemorySegment segment = arena.allocate(BYTES, 4096);
        Tensors tensors = new Tensors(new Memory("test", segment.address(), BYTES, true));
        int rows = 611;
        int columns = 75;
        int vocabulary = 1003;
        Tensor tokens = tensors.integers(vocabulary, rows);
        Tensor x = tensors.floats(dtype, rows, columns);
        Tensor out = tensors.floats(dtype, rows, columns);
        Tensor gradTable = tensors.floats(DType.F32, vocabulary, columns);
        Tensor weight = tensors.floats(dtype, columns);
        Tensor gradWeight = tensors.floats(DType.F32, columns);
        Tensor rstd = tensors.floats(DType.F32, rows);
        Tensor workspace = tensors.floats(DType.F32, 1 << 16);
        Tensor logits = tensors.floats(dtype, rows, vocabulary);
        Tensor scale = tensors.floats(DType.F32, 1);
        Tensor loss = tensors.floats(DType.F32, 1);
        Tensor norm = tensors.floats(DType.F32, 1);
        Tensor gateUp = tensors.floats(dtype, rows, 2L * columns);
        Tensor angles = tensors.floats(DType.F32, vocabulary, 20);
        Tensor flat = tensors.floats(DType.F32, 300_007);
        Tensor into = tensors.floats(DType.F32, 300_007);
        Tensor parts = tensors.floats(DType.F32, 1, rows, 3);
        Tensor cast = tensors.floats(DType.BF16, 300_007);

        Embedding.backward(workers, tokens, x, 0, gradTable, true).run();
        RmsNorm.forward(workers, x, weight, 1e-6f, out, rstd).run();
        RmsNorm.backward(workers, out, x, weight, rstd, out, out, gradWeight, null, true, workspace)
                .run();
        Rope.rotate(workers, x, tokens, angles, 3, 20, false).run();
        SwiGlu.forward(workers, gateUp, x).run();
        SwiGlu.backward(workers, x, gateUp, gateUp, null).run();
        CrossEntropy.run(workers, logits, tokens, scale, loss, true, true, workspace)
                .run();
        CrossEntropyParts.part(workers, logits, tokens, 500, parts).run();
        CrossEntropyParts.whole(workers, logits, tokens, parts, 0, scale, 500, loss, true, true, workspace)
                .run();
        Cast.run(workers, flat, cast).run();
        Optimizer.sumSquares(workers, flat, norm, true, workspace).run();
        MemoryOps.add(workers, flat, into).run();
        // Scratch memory holds no result.
        MemoryOps.zero(workers, workspace).run();
        return segment;
    }

    private static final class Tensors {
        private final Memory memory;
        private final Random random = new Random(1);
        private long used;

        Tensors(Memory memory) {
            this.memory = memory;
        }

        private Tensor next(DType dtype, long... sizes) {
            Tensor tensor = memory.tensor(used, dtype, Shape.of(sizes));
            used += (tensor.bytes() + 63) / 64 * 64;
            return tensor;
        }

        Tensor floats(DType dtype, long... sizes) {
            Tensor tensor = next(dtype, sizes);
            for (int i = 0; i < tensor.elements(); i++) {
                Vectors.put(dtype == DType.BF16, tensor.address(), i, (float) random.nextGaussian());
            }
            return tensor;
        }

        Tensor integers(int bound, long... sizes) {
            Tensor tensor = next(DType.I32, sizes);
            MemorySegment segment = MemorySegment.ofAddress(tensor.address()).reinterpret(tensor.bytes());
            for (int i = 0; i < tensor.elements(); i++) {
                segment.setAtIndex(ValueLayout.JAVA_INT, i, random.nextInt(bound));
            }
            return tensor;
        }
    }
}
