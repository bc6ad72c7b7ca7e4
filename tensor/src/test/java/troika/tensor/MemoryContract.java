package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/// Zeroing, copies and sums; and tensors without rows.
interface MemoryContract extends FixtureHolder {
    @ParameterizedTest
    @CsvSource({"F32, 1", "BF16, 37", "F16, 37", "F32, 300007", "I32, 100"})
    default void zero(DType dtype, int n) {
        Tensor out = fixture().poisoned(dtype, n);

        fixture().run((kernels, stream) -> kernels.zero(stream, out));

        assertThat(fixture().read(out)).containsOnly(0);
    }

    @ParameterizedTest
    @CsvSource({"F32, 37", "BF16, 1003", "BF16, 600007", "F16, 1003", "F16, 600007"})
    default void copy(DType dtype, int n) {
        Tensor from = fixture().normal(dtype, n);
        Tensor to = fixture().poisoned(dtype, n);

        fixture().run((kernels, stream) -> kernels.copy(stream, from, to));

        assertThat(fixture().bytes(to).mismatch(fixture().bytes(from))).isEqualTo(-1);
    }

    @Test
    default void copyToTheHostAndBack() {
        Device device = fixture().device();
        Memory host = device.allocateHost("test host memory", 4096);
        Tensor there = host.tensor(64, DType.F32, Shape.of(37));
        Tensor from = fixture().normal(DType.F32, 37);
        Tensor to = fixture().poisoned(DType.F32, 37);

        fixture().run((kernels, stream) -> {
            kernels.copy(stream, from, there);
            kernels.copy(stream, there, to);
        });

        assertThat(fixture().read(to)).containsExactly(fixture().read(from));
        device.free(host);
    }

    @ParameterizedTest
    @CsvSource({
        "F32, 1, 0",
        "F32, 37, 0",
        "F32, 300007, 0",
        "F32, 1003, 1",
        "BF16, 1, 0",
        "BF16, 37, 0",
        "BF16, 300007, 0",
        "BF16, 1003, 1",
        "F16, 1, 0",
        "F16, 37, 0",
        "F16, 300007, 0",
        "F16, 1003, 1"
    })
    default void add(DType dtype, int n, int offset) {
        for (int i = 0; i < offset; i++) {
            fixture().misalign(dtype);
        }
        double[] values = fixture().gaussians(n, 1);
        double[] others = fixture().gaussians(n, 1);
        // Ties of 7 and of 10 bits, to both sides; numbers too small and too large; zeros.
        double[][] special = {
            {1, 0x1p-8}, {1, 0x3p-8}, {1, 0x1p-11}, {1, 0x3p-11}, {65504, 15}, {65504, 16}, {3e-8, 3e-8}, {-0.0, 0}
        };
        for (int i = 0; i < Math.min(n, special.length); i++) {
            values[n - 1 - i] = special[i][0];
            others[n - 1 - i] = special[i][1];
        }
        Tensor x = fixture().poisoned(dtype, n);
        Tensor into = fixture().poisoned(dtype, n);
        Tensor expected = fixture().poisoned(dtype, n);
        fixture().write(x, values);
        fixture().write(into, others);
        // Rounded to fp32 and from there to the dtype; that the sum is one of doubles does not change it.
        fixture()
                .write(expected, KernelsFixture.sum(fixture().read(x), fixture().read(into)));

        fixture().run((kernels, stream) -> kernels.add(stream, x, into));

        assertThat(fixture().bytes(into).mismatch(fixture().bytes(expected)))
                .as("first byte that is not the rounded sum's")
                .isEqualTo(-1);
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16", "F16"})
    default void withoutRowsOnlyGradientsOfWeightsAreWritten(DType dtype) {
        Tensor none = fixture().poisoned(dtype, 0, 72);
        Tensor wide = fixture().poisoned(dtype, 0, 144);
        Tensor integers = fixture().integers();
        Tensor rstd = fixture().poisoned(DType.F32, 0);
        Tensor weight = fixture().normal(dtype, 72);
        Tensor square = fixture().normal(dtype, 72, 72);
        Tensor gradNorm = fixture().poisoned(DType.F32, 72);
        Tensor gradTable = fixture().poisoned(DType.F32, 11, 72);
        Tensor gradWeight = fixture().poisoned(DType.F32, 72, 72);
        Tensor kept = fixture().normal(DType.F32, 72, 72);
        double[] before = fixture().read(kept);
        Tensor scale = fixture().floats(1);
        Tensor loss = fixture().floats(3);
        Tensor part = fixture().poisoned(DType.F32, 0, 3);
        Tensor parts = fixture().poisoned(DType.F32, 2, 0, 3);

        fixture().run((kernels, stream) -> {
            kernels.embedding(stream, integers, square, 0, none);
            kernels.embeddingBackward(stream, integers, none, 0, gradTable, false);
            kernels.rmsNorm(stream, none, weight, 1e-6f, none, rstd);
            kernels.rmsNormBackward(stream, none, none, weight, rstd, none, none, gradNorm, none, false);
            kernels.linear(stream, none, square, none, none);
            kernels.linearBackwardInput(stream, none, square, none);
            kernels.linearBackwardWeight(stream, none, none, gradWeight, false);
            kernels.linearBackwardWeight(stream, none, none, kept, true);
            kernels.swiglu(stream, wide, none);
            kernels.swigluBackward(stream, none, wide, wide, none);
            kernels.crossEntropy(stream, none, integers, scale, loss, true, true);
            kernels.crossEntropyPart(stream, none, integers, 5, part);
            kernels.crossEntropyWhole(stream, none, integers, parts, scale, 5, loss, true, true);
            kernels.cast(stream, none, rstd);
        });

        assertThat(fixture().read(gradTable)).containsOnly(0);
        assertThat(fixture().read(gradNorm)).containsOnly(0);
        assertThat(fixture().read(gradWeight)).containsOnly(0);
        assertThat(fixture().read(kept)).containsExactly(before);
        assertThat(fixture().read(loss)).containsExactly(3);
    }
}
