package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Oracle;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Both kinds of attention on a card against sums in fp64, beyond what the kernels' contract asks.
@Tag("gpu")
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
final class AttentionTest {
    private static final long ARENA_BYTES = 96L << 20;

    private CudaDevice device;
    private Memory arena;
    private CudaStream stream;
    private long used;

    @BeforeAll
    void open() {
        device = Cards.open();
        arena = device.allocate("test arena", ARENA_BYTES);
        long bytes = device.workspaceBytes();
        Tensor workspace = device.allocate("test workspace", bytes).tensor(0, DType.F32, Shape.of(bytes / 4));
        stream = (CudaStream) device.stream("test", workspace);
    }

    @AfterAll
    void close() {
        if (device != null) {
            device.close();
        }
    }

    @BeforeEach
    void clear() {
        used = 0;
    }

    /// What a call wrote.
    private record Result(double[] out, double[] logSumExp, double[] gradQkv, List<byte[]> bits) {}

    /// The tensors of a problem; outputs are NaN until written.
    private final class Problem {
        final AttentionShape shape;
        final int[] documents;
        final Tensor qkv;
        final Tensor gradOut;
        final Tensor positions;
        final Tensor out;
        final Tensor logSumExp;
        final Tensor gradQkv;

        Problem(DType dtype, AttentionShape shape, int... documents) {
            this.shape = shape;
            this.documents = positions(shape, documents);
            long rows = (long) shape.batch() * shape.sequence();
            long columns = (long) shape.heads() * shape.headSize();
            qkv = tensor(dtype, rows, shape.qkvColumns());
            gradOut = tensor(dtype, rows, columns);
            positions = tensor(DType.I32, rows);
            out = tensor(dtype, rows, columns);
            logSumExp = tensor(DType.F32, shape.batch(), shape.heads(), shape.sequence());
            gradQkv = tensor(dtype, rows, shape.qkvColumns());
            SplittableRandom random = new SplittableRandom(7);
            write(qkv, random);
            write(gradOut, random);
            try (Arena host = Arena.ofConfined()) {
                device.write(positions, host.allocateFrom(ValueLayout.JAVA_INT, this.documents));
            }
        }

        Result run(Attention attention, boolean captured) {
            for (Tensor tensor : List.of(out, logSumExp, gradQkv)) {
                try (Arena host = Arena.ofConfined()) {
                    device.write(tensor, host.allocate(tensor.bytes(), 16).fill((byte) 0xff));
                }
            }
            if (captured) {
                stream.beginCapture();
            }
            attention.attention(stream, shape, qkv, positions, out, logSumExp);
            attention.attentionBackward(stream, shape, gradOut, qkv, positions, out, logSumExp, gradQkv);
            if (captured) {
                Stream.Graph graph = stream.endCapture();
                stream.launch(graph);
            }
            stream.synchronize();
            return new Result(
                    read(out), read(logSumExp), read(gradQkv), List.of(bits(out), bits(logSumExp), bits(gradQkv)));
        }

        void assertRight(Result result) {
            Oracle.Attention expected = Oracle.attention(shape, read(qkv), documents);
            double tolerance = qkv.dtype() == DType.F32 ? 1e-5 : 1e-2;
            assertThat(distance(result.out, expected.out())).as("out").isLessThan(tolerance);
            assertThat(distance(result.logSumExp, expected.logSumExp()))
                    .as("logSumExp")
                    .isLessThan(tolerance);
            double[] gradient = Oracle.attentionBackward(shape, read(gradOut), read(qkv), documents);
            assertThat(distance(result.gradQkv, gradient)).as("gradQkv").isLessThan(tolerance);
        }
    }

    private static AttentionShape shape(
            int batch, int sequence, int heads, int keyValueHeads, int headSize, boolean packed) {
        return new AttentionShape(batch, sequence, heads, keyValueHeads, headSize, packed);
    }

    // Documents of these lengths, in turn, none beyond a sequence's end.
    private static int[] positions(AttentionShape shape, int... lengths) {
        int[] positions = new int[shape.batch() * shape.sequence()];
        int document = -1;
        int position = 0;
        for (int t = 0; t < positions.length; t++) {
            if (t % shape.sequence() == 0 || position == lengths[document % lengths.length]) {
                document++;
                position = 0;
            }
            positions[t] = position++;
        }
        return positions;
    }

    private Tensor tensor(DType dtype, long... sizes) {
        Tensor tensor = arena.tensor(used, dtype, Shape.of(sizes));
        used += Math.ceilDiv(tensor.bytes(), 256L) * 256;
        return tensor;
    }

    private void write(Tensor tensor, SplittableRandom random) {
        try (Arena host = Arena.ofConfined()) {
            MemorySegment segment = host.allocate(tensor.bytes(), 16);
            for (long i = 0; i < tensor.elements(); i++) {
                float x = (float) random.nextGaussian();
                switch (tensor.dtype()) {
                    case F32 -> segment.setAtIndex(ValueLayout.JAVA_FLOAT, i, x);
                    case BF16 ->
                        segment.setAtIndex(ValueLayout.JAVA_SHORT, i, (short) (Float.floatToRawIntBits(x) >>> 16));
                    case F16 -> segment.setAtIndex(ValueLayout.JAVA_SHORT, i, Float.floatToFloat16(x));
                    case I32 -> throw new IllegalArgumentException("I32");
                }
            }
            device.write(tensor, segment);
        }
    }

    private byte[] bits(Tensor tensor) {
        try (Arena host = Arena.ofConfined()) {
            MemorySegment segment = host.allocate(tensor.bytes(), 16);
            device.read(tensor, segment);
            return segment.toArray(ValueLayout.JAVA_BYTE);
        }
    }

    private double[] read(Tensor tensor) {
        MemorySegment segment = MemorySegment.ofArray(bits(tensor));
        double[] values = new double[Math.toIntExact(tensor.elements())];
        for (int i = 0; i < values.length; i++) {
            values[i] = switch (tensor.dtype()) {
                case F32 -> segment.get(ValueLayout.JAVA_FLOAT_UNALIGNED, 4L * i);
                case BF16 -> Float.intBitsToFloat(segment.get(ValueLayout.JAVA_SHORT_UNALIGNED, 2L * i) << 16);
                case F16 -> Float.float16ToFloat(segment.get(ValueLayout.JAVA_SHORT_UNALIGNED, 2L * i));
                case I32 -> throw new IllegalArgumentException("I32");
            };
        }
        return values;
    }

    private static double distance(double[] actual, double[] expected) {
        double error = 0;
        double norm = 0;
        for (int i = 0; i < expected.length; i++) {
            error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
            norm += expected[i] * expected[i];
        }
        double distance = Math.sqrt(error / norm);
        return Double.isNaN(distance) ? Double.POSITIVE_INFINITY : distance;
    }

    @ParameterizedTest
    @CsvSource({
        "BF16, 1, 200, 2, 2, 32, false",
        "BF16, 2, 200, 4, 2, 64, true",
        "BF16, 1, 150, 2, 1, 128, false",
        "F16, 2, 150, 4, 1, 128, true",
        "BF16, 1, 150, 3, 3, 40, true",
        "F16, 1, 100, 2, 2, 6, false",
        "BF16, 1, 150, 2, 1, 96, true",
        "BF16, 1, 150, 2, 2, 160, true",
        "BF16, 1, 150, 2, 1, 192, true",
        "BF16, 1, 150, 2, 2, 224, false",
        "BF16, 1, 150, 2, 1, 256, true",
        "BF16, 1, 1, 2, 1, 64, true",
        "BF16, 3, 64, 2, 1, 64, false",
        "F32, 2, 150, 4, 2, 40, true",
        "F32, 1, 100, 2, 1, 192, true",
        "F32, 1, 150, 2, 2, 64, false"
    })
    void ownKernelsAreRight(
            DType dtype, int batch, int sequence, int heads, int keyValueHeads, int headSize, boolean packed) {
        AttentionShape shape = shape(batch, sequence, heads, keyValueHeads, headSize, packed);
        Problem problem = new Problem(dtype, shape, packed ? new int[] {1, 17, 64, 2, 70} : new int[] {sequence});
        try (Attention own = new Attention(device, true)) {
            Result result = problem.run(own, false);
            problem.assertRight(result);

            assertThat(problem.run(own, true).bits.toArray(byte[][]::new))
                    .as("a second run's bits")
                    .isDeepEqualTo(result.bits.toArray(byte[][]::new));
            assertThat(own.notes()).hasSize(2).allMatch(note -> note.contains("own kernels"));
        }
    }

    @ParameterizedTest
    @CsvSource({
        "BF16, 3, 256, 4, 4, 64, false",
        "F16, 2, 200, 4, 2, 128, false",
        "BF16, 3, 256, 4, 4, 64, true",
        "F16, 2, 200, 4, 2, 128, true",
        "BF16, 5, 300, 2, 2, 32, true"
    })
    void whatIsChosenIsRight(
            DType dtype, int batch, int sequence, int heads, int keyValueHeads, int headSize, boolean packed) {
        AttentionShape shape = shape(batch, sequence, heads, keyValueHeads, headSize, packed);
        Problem problem = new Problem(dtype, shape, packed ? new int[] {100, 156} : new int[] {sequence});
        for (boolean deterministic : new boolean[] {true, false}) {
            try (CudaDevice other = new CudaDevice(device.ordinal(), deterministic);
                    Attention chosen = new Attention(other, false)) {
                Result result = problem.run(chosen, false);
                problem.assertRight(result);
                assertThat(chosen.notes()).hasSize(2);
                if (deterministic) {
                    assertThat(problem.run(chosen, true).bits.toArray(byte[][]::new))
                            .as("a second run's bits")
                            .isDeepEqualTo(result.bits.toArray(byte[][]::new));
                } else {
                    problem.assertRight(problem.run(chosen, true));
                }
            }
        }
    }

    /// More documents than cuDNN's lists have room for: the own kernels do the slice.
    @ParameterizedTest
    @CsvSource({"1", "3"})
    void tinyDocumentsOverflowTheLists(int length) {
        AttentionShape shape = shape(3, 256, 2, 2, 64, true);
        Problem problem = new Problem(DType.BF16, shape, length);
        try (CudaDevice other = new CudaDevice(device.ordinal(), false);
                Attention chosen = new Attention(other, false)) {
            problem.assertRight(problem.run(chosen, false));
            problem.assertRight(problem.run(chosen, true));
        }
    }

    /// As large as it must be cut: what cuDNN says of slices is what the own kernels say.
    @Test
    void slicesAgreeWithOwnKernels() {
        List<double[]> gradients = new ArrayList<>();
        AttentionShape shape = shape(4, 2048, 8, 8, 64, false);
        Problem problem = new Problem(DType.BF16, shape, 2048);
        try (Attention own = new Attention(device, true);
                Attention chosen = new Attention(device, false)) {
            for (Attention attention : List.of(own, chosen)) {
                gradients.add(problem.run(attention, false).gradQkv);
            }
        }
        assertThat(distance(gradients.get(1), gradients.get(0))).isLessThan(1e-2);
    }

    @ParameterizedTest
    @CsvSource({"F32, 4, 2, 64", "BF16, 8, 2, 128", "F16, 3, 3, 40", "BF16, 2, 1, 256"})
    void decodingAgreesWithAttentionOverLongCaches(DType dtype, int heads, int keyValueHeads, int headSize) {
        int sequence = 700;
        AttentionShape whole = shape(1, sequence, heads, keyValueHeads, headSize, false);
        Problem problem = new Problem(dtype, whole, sequence);
        AttentionShape one = shape(1, 1, heads, keyValueHeads, headSize, false);
        int keyColumns = keyValueHeads * headSize;
        Tensor keys = tensor(dtype, 900, keyColumns);
        Tensor values = tensor(dtype, 900, keyColumns);
        Tensor out = tensor(dtype, 1, (long) heads * headSize);
        Tensor position = tensor(DType.I32, 1);
        try (Attention own = new Attention(device, true)) {
            double[] expected = problem.run(own, false).out;
            byte[] qkv = bits(problem.qkv);
            int bytes = dtype.bytes();
            long rowBytes = (long) whole.qkvColumns() * bytes;
            long keyAt = (long) heads * headSize * bytes;
            // The cache as the rows before wrote it, behind it NaN.
            try (Arena host = Arena.ofConfined()) {
                MemorySegment keyBits = host.allocate(keys.bytes(), 16).fill((byte) 0xff);
                MemorySegment valueBits = host.allocate(keys.bytes(), 16).fill((byte) 0xff);
                long width = (long) keyColumns * bytes;
                for (int t = 0; t < sequence - 1; t++) {
                    MemorySegment row = MemorySegment.ofArray(qkv).asSlice(t * rowBytes, rowBytes);
                    MemorySegment.copy(row, keyAt, keyBits, t * width, width);
                    MemorySegment.copy(row, keyAt + width, valueBits, t * width, width);
                }
                device.write(keys, keyBits);
                device.write(values, valueBits);
                device.write(position, host.allocateFrom(ValueLayout.JAVA_INT, sequence - 1));
            }
            Tensor last = new Tensor(
                    arena, problem.qkv.offset() + (sequence - 1) * rowBytes, dtype, Shape.of(1, whole.qkvColumns()));
            own.attentionDecode(stream, one, last, position, keys, values, out);
            stream.synchronize();
            double[] row = new double[heads * headSize];
            System.arraycopy(expected, (sequence - 1) * row.length, row, 0, row.length);
            assertThat(distance(read(out), row)).isLessThan(dtype == DType.F32 ? 1e-5 : 1e-2);
        }
    }
}
