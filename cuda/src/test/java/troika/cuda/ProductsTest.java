package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.Random;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Oracle;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// What the kernels' contract leaves open: F16, sizes and addresses that suit no vector, and the choice of algorithms.
@Tag("gpu")
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class ProductsTest {
    private static final long BYTES = 32L << 20;

    private CudaDevice device;
    private Memory memory;
    private CudaStream stream;
    private Random random;
    private long used;

    @BeforeAll
    void open() {
        device = open(false);
        memory = device.allocate("test arena", BYTES);
        stream = stream(device);
    }

    private static CudaDevice open(boolean deterministic) {
        return (CudaDevice) new CudaDeviceProvider().open("0", deterministic).getFirst();
    }

    private static CudaStream stream(CudaDevice device) {
        Memory workspace = device.allocate("test workspace", device.workspaceBytes());
        return (CudaStream)
                device.stream("test", workspace.tensor(0, DType.F32, Shape.of(device.workspaceBytes() / 4)));
    }

    @BeforeEach
    void clear() {
        random = new Random(1);
        used = 0;
    }

    @AfterAll
    void close() {
        device.close();
    }

    /// Normally distributed numbers, `skipped` elements past an aligned address.
    private Tensor normal(DType dtype, int skipped, long... sizes) {
        Tensor tensor = memory.tensor(used + (long) skipped * dtype.bytes(), dtype, Shape.of(sizes));
        used = Math.ceilDiv(used + tensor.bytes() + 1024, 256) * 256;
        double[] values = new double[Math.toIntExact(tensor.elements())];
        for (int i = 0; i < values.length; i++) {
            values[i] = random.nextGaussian();
        }
        write(tensor, values);
        return tensor;
    }

    private void write(Tensor tensor, double[] values) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment segment = arena.allocate(tensor.bytes(), 16);
            for (int i = 0; i < values.length; i++) {
                float value = (float) values[i];
                switch (tensor.dtype()) {
                    case F32 -> segment.setAtIndex(ValueLayout.JAVA_FLOAT, i, value);
                    case BF16 ->
                        segment.setAtIndex(ValueLayout.JAVA_SHORT, i, (short) (Float.floatToRawIntBits(value) >>> 16));
                    case F16 -> segment.setAtIndex(ValueLayout.JAVA_SHORT, i, Float.floatToFloat16(value));
                    case I32 -> throw new IllegalArgumentException();
                }
            }
            device.write(tensor, segment);
        }
    }

    private double[] read(Tensor tensor) {
        double[] values = new double[Math.toIntExact(tensor.elements())];
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment segment = arena.allocate(tensor.bytes(), 16);
            device.read(tensor, segment);
            for (int i = 0; i < values.length; i++) {
                values[i] = switch (tensor.dtype()) {
                    case F32 -> segment.getAtIndex(ValueLayout.JAVA_FLOAT, i);
                    case BF16 -> Float.intBitsToFloat(segment.getAtIndex(ValueLayout.JAVA_SHORT, i) << 16);
                    case F16 -> Float.float16ToFloat(segment.getAtIndex(ValueLayout.JAVA_SHORT, i));
                    case I32 -> throw new IllegalArgumentException();
                };
            }
        }
        return values;
    }

    private void assertClose(Tensor actual, double[] expected) {
        double[] values = read(actual);
        double error = 0;
        double norm = 0;
        for (int i = 0; i < expected.length; i++) {
            error += (values[i] - expected[i]) * (values[i] - expected[i]);
            norm += expected[i] * expected[i];
        }
        double tolerance = switch (actual.dtype()) {
            case F32 -> 1e-5;
            case F16 -> 1e-3;
            case BF16, I32 -> 5e-3;
        };
        assertThat(Math.sqrt(error / norm)).isLessThanOrEqualTo(tolerance);
    }

    private static double[] sum(double[] a, double[] b) {
        double[] sum = a.clone();
        for (int i = 0; i < sum.length; i++) {
            sum[i] += b[i];
        }
        return sum;
    }

    /// The tensors of one linear layer, and what its products should give.
    private final class Layer {
        private final int rows;
        private final int inputs;
        private final int outputs;
        private final Tensor x;
        private final Tensor weight;
        private final Tensor residual;
        private final Tensor out;
        private final Tensor gradOut;
        private final Tensor gradX;
        private final Tensor gradWeight;

        Layer(DType dtype, int rows, int inputs, int outputs, int skipped) {
            this.rows = rows;
            this.inputs = inputs;
            this.outputs = outputs;
            x = normal(dtype, skipped, rows, inputs);
            weight = normal(dtype, skipped, outputs, inputs);
            residual = normal(dtype, skipped, rows, outputs);
            out = normal(dtype, skipped, rows, outputs);
            gradOut = normal(dtype, skipped, rows, outputs);
            gradX = normal(dtype, skipped, rows, inputs);
            gradWeight = normal(DType.F32, skipped, outputs, inputs);
        }

        double[] expectedOut(@Nullable Tensor added) {
            double[] product =
                    Oracle.product(read(x), Oracle.transposed(read(weight), outputs, inputs), rows, inputs, outputs);
            return added == null ? product : sum(product, read(added));
        }

        double[] expectedGradX() {
            return Oracle.product(read(gradOut), read(weight), rows, outputs, inputs);
        }

        double[] expectedGradWeight(boolean accumulate) {
            double[] product =
                    Oracle.product(Oracle.transposed(read(gradOut), rows, outputs), read(x), outputs, rows, inputs);
            return accumulate ? sum(product, read(gradWeight)) : product;
        }
    }

    @ParameterizedTest
    @CsvSource({
        "F32, 37, 72, 104, 0",
        "F32, 131, 67, 29, 1",
        "F32, 1, 33, 17, 3",
        "F32, 300, 513, 1, 1",
        "BF16, 37, 72, 104, 0",
        "BF16, 131, 67, 29, 1",
        "BF16, 1, 33, 17, 3",
        "BF16, 300, 513, 1, 1",
        "BF16, 256, 128, 512, 8",
        "BF16, 255, 130, 510, 2",
        "BF16, 64, 1, 64, 0",
        "F16, 37, 72, 104, 0",
        "F16, 131, 67, 29, 1",
        "F16, 1, 33, 17, 3",
        "F16, 300, 513, 1, 1",
    })
    void oddSizesAndAddresses(DType dtype, int rows, int inputs, int outputs, int skipped) {
        Layer l = new Layer(dtype, rows, inputs, outputs, skipped);
        try (Products products = new Products(device, new DiskCache(null))) {
            double[] out = l.expectedOut(null);
            products.linear(stream, l.x, l.weight, null, l.out);
            stream.synchronize();
            assertClose(l.out, out);

            double[] withResidual = l.expectedOut(l.residual);
            products.linear(stream, l.x, l.weight, l.residual, l.out);
            stream.synchronize();
            assertClose(l.out, withResidual);
            products.linear(stream, l.x, l.weight, l.residual, l.residual);
            stream.synchronize();
            assertClose(l.residual, withResidual);

            products.linearBackwardInput(stream, l.gradOut, l.weight, l.gradX);
            stream.synchronize();
            assertClose(l.gradX, l.expectedGradX());

            double[] added = l.expectedGradWeight(true);
            products.linearBackwardWeight(stream, l.gradOut, l.x, l.gradWeight, true);
            stream.synchronize();
            assertClose(l.gradWeight, added);
            products.linearBackwardWeight(stream, l.gradOut, l.x, l.gradWeight, false);
            stream.synchronize();
            assertClose(l.gradWeight, l.expectedGradWeight(false));
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16", "F16"})
    void algorithmsTimedInACaptureGiveTheSameAndAreSaved(DType dtype, @TempDir Path folder) {
        Layer l = new Layer(dtype, 256, 384, 320, 0);
        DiskCache cache = new DiskCache(folder);
        byte[] timedBits;
        try (Products products = new Products(device, cache)) {
            stream.beginCapture();
            products.linear(stream, l.x, l.weight, l.residual, l.out);
            products.linearBackwardInput(stream, l.gradOut, l.weight, l.gradX);
            products.linearBackwardWeight(stream, l.gradOut, l.x, l.gradWeight, true);
            Stream.Graph graph = stream.endCapture();
            assertThat(products.choices().values())
                    .hasSize(3)
                    .allMatch(choice -> choice.startsWith("fastest of ") || choice.startsWith("the only one"));

            // Timing may have written over all of them.
            l = refreshed(dtype);
            double[] out = l.expectedOut(l.residual);
            double[] gradX = l.expectedGradX();
            double[] gradWeight = l.expectedGradWeight(true);
            stream.launch(graph);
            stream.synchronize();
            assertClose(l.out, out);
            assertClose(l.gradX, gradX);
            assertClose(l.gradWeight, gradWeight);
            timedBits = bits(l);

            l = refreshed(dtype);
            stream.launch(graph);
            stream.synchronize();
            assertThat(bits(l)).as("a second run").isEqualTo(timedBits);
        }
        try (Products products = new Products(device, cache)) {
            l = refreshed(dtype);
            runAll(products, stream, l);
            assertThat(products.choices().values())
                    .hasSize(3)
                    .allMatch(choice -> choice.startsWith("saved, ") || choice.startsWith("the heuristic's first"))
                    .anyMatch(choice -> choice.startsWith("saved, "));
            assertThat(bits(l)).as("a run with saved algorithms").isEqualTo(timedBits);
        }
    }

    private Layer refreshed(DType dtype) {
        clear();
        return new Layer(dtype, 256, 384, 320, 0);
    }

    private static void runAll(Products products, CudaStream on, Layer l) {
        products.linear(on, l.x, l.weight, l.residual, l.out);
        products.linearBackwardInput(on, l.gradOut, l.weight, l.gradX);
        products.linearBackwardWeight(on, l.gradOut, l.x, l.gradWeight, true);
        on.synchronize();
    }

    private byte[] bits(Layer l) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment all = arena.allocate(l.out.bytes() + l.gradX.bytes() + l.gradWeight.bytes(), 16);
            device.read(l.out, all.asSlice(0, l.out.bytes()));
            device.read(l.gradX, all.asSlice(l.out.bytes(), l.gradX.bytes()));
            device.read(l.gradWeight, all.asSlice(l.out.bytes() + l.gradX.bytes(), l.gradWeight.bytes()));
            return all.toArray(ValueLayout.JAVA_BYTE);
        }
    }

    @Test
    void aDeterministicDeviceNeitherTimesNorTakesWhatWasTimed(@TempDir Path folder) {
        DiskCache cache = new DiskCache(folder);
        CudaDevice deterministic = open(true);
        try (Products timed = new Products(device, cache);
                Products products = new Products(deterministic, cache)) {
            Layer l = new Layer(DType.BF16, 256, 384, 320, 0);
            stream.beginCapture();
            timed.linear(stream, l.x, l.weight, null, l.out);
            stream.endCapture();
            CudaStream other = stream(deterministic);
            other.beginCapture();
            products.linear(other, l.x, l.weight, null, l.out);
            other.endCapture();
            assertThat(products.choices().values()).singleElement().asString().startsWith("the heuristic's first");
        } finally {
            deterministic.close();
        }
    }

    @Test
    void savedBytesThatAreNoAlgorithmAreIgnored(@TempDir Path folder) {
        DiskCache cache = new DiskCache(folder);
        Layer l = new Layer(DType.BF16, 64, 64, 64, 0);
        try (Products products = new Products(device, cache)) {
            Product product = Product.linear(l.x, l.weight, null, l.out).product();
            byte[] none = new byte[CublasLt.ALGORITHM_BYTES];
            none[0] = 127;
            cache.put(products.cacheKey(product), new SavedAlgorithm(none, 1).encoded());
            products.linear(stream, l.x, l.weight, null, l.out);
            stream.synchronize();
            assertClose(l.out, l.expectedOut(null));
            assertThat(products.choices().get(product.toString())).startsWith("the heuristic's first");
        }
    }

    @Test
    void noRows() {
        Tensor none = memory.tensor(0, DType.BF16, Shape.of(0, 48));
        Tensor noX = memory.tensor(0, DType.BF16, Shape.of(0, 40));
        Layer l = new Layer(DType.BF16, 8, 40, 48, 0);
        double[] before = read(l.gradWeight);
        try (Products products = new Products(device, new DiskCache(null))) {
            products.linear(stream, noX, l.weight, null, none);
            products.linearBackwardInput(stream, none, l.weight, noX);
            products.linearBackwardWeight(stream, none, noX, l.gradWeight, true);
            stream.synchronize();
            assertThat(read(l.gradWeight)).isEqualTo(before);
            products.linearBackwardWeight(stream, none, noX, l.gradWeight, false);
            stream.synchronize();
            assertThat(read(l.gradWeight)).containsOnly(0);
        }
    }

    @Test
    void aStreamWithoutWorkspaceIsRefused() {
        Layer l = new Layer(DType.BF16, 8, 40, 48, 0);
        CudaStream bare = (CudaStream) device.stream("copies", null);
        try (Products products = new Products(device, new DiskCache(null))) {
            assertThatThrownBy(() -> products.linear(bare, l.x, l.weight, null, l.out))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("copies");
        }
    }
}
