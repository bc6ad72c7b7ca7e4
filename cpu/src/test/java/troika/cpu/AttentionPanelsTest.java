package troika.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.Random;
import org.junit.jupiter.api.Test;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

class AttentionPanelsTest {
    private static final int SEQUENCE = 1300;
    private static final AttentionShape SHAPE = new AttentionShape(1, SEQUENCE, 2, 1, 16, true);

    private final CpuDevice device = new CpuDevice(0, 1, 2_000);

    /// Where the gradients of a sequence's keys do not fit into the workspace, they are the same, a panel at a time.
    @Test
    void gradientsDoNotDependOnTheWorkspace() {
        int columns = SHAPE.qkvColumns();
        long gradBytes = 4L * SEQUENCE * columns;
        Memory memory = device.allocate("m", 16 << 20);
        Tensor qkv = memory.tensor(0, DType.F32, Shape.of(SEQUENCE, columns));
        Tensor out = memory.tensor(2 << 20, DType.F32, Shape.of(SEQUENCE, 32));
        Tensor gradOut = memory.tensor(4 << 20, DType.F32, Shape.of(SEQUENCE, 32));
        Tensor positions = memory.tensor(6 << 20, DType.I32, Shape.of(SEQUENCE));
        Tensor logSumExp = memory.tensor(7 << 20, DType.F32, Shape.of(2, SEQUENCE));
        Tensor whole = memory.tensor(8 << 20, DType.F32, Shape.of(SEQUENCE, columns));
        Tensor panels = memory.tensor(10 << 20, DType.F32, Shape.of(SEQUENCE, columns));
        Random random = new Random(1);
        for (Tensor tensor : new Tensor[] {qkv, gradOut}) {
            for (int i = 0; i < tensor.elements(); i++) {
                Vectors.put(false, tensor.address(), i, (float) random.nextGaussian());
            }
        }
        for (int t = 0; t < SEQUENCE; t++) {
            // A document of 900 tokens and one of the rest; an I32 and an F32 of the same bits.
            Vectors.putF32(positions.address() + 4L * t, Float.intBitsToFloat(t < 900 ? t : t - 900));
        }
        long least = MatMul.SCRATCH_BYTES + 4 * Attention.BLOCK_BYTES + 4L * Attention.QUERIES * 16;
        long onePanel = (least + 8L * 16 * Attention.KEYS + 4095) / 4096 * 4096;
        backward(device.workspaceBytes(), qkv, positions, out, logSumExp, gradOut, whole);
        backward(onePanel, qkv, positions, out, logSumExp, gradOut, panels);
        double norm = 0;
        for (int i = 0; i < gradBytes / 4; i++) {
            float expected = Vectors.get(false, whole.address(), i);
            norm += expected * expected;
            assertThat(Vectors.get(false, panels.address(), i)).isCloseTo(expected, within(2e-5f));
        }
        assertThat(norm).isGreaterThan(1);
        device.free(memory);
    }

    private void backward(
            long bytes, Tensor qkv, Tensor positions, Tensor out, Tensor logSumExp, Tensor gradOut, Tensor gradQkv) {
        Memory workspace = device.allocate("w", bytes);
        Tensor tensor = workspace.tensor(0, DType.F32, Shape.of(bytes / 4));
        try (Stream stream = new CpuStream("s", tensor, new CpuWorkers("s", 1, 1000), 1000)) {
            device.kernels().attention(stream, SHAPE, qkv, positions, out, logSumExp);
            device.kernels().attentionBackward(stream, SHAPE, gradOut, qkv, positions, out, logSumExp, gradQkv);
            stream.synchronize();
        }
        device.free(workspace);
    }
}
