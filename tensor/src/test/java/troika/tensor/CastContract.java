package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Casts.
interface CastContract extends FixtureHolder {
    @ParameterizedTest
    @CsvSource({
        "F32, BF16, 300007, 0, 0",
        "F32, BF16, 5, 0, 0",
        "F32, BF16, 1003, 1, 0",
        "F32, F16, 300007, 0, 0",
        "F32, F16, 1003, 0, 3",
        "F32, F32, 1003, 1, 0",
        "BF16, F32, 300007, 0, 0",
        "BF16, F32, 1003, 1, 1",
        "BF16, F16, 70001, 0, 0",
        "BF16, F16, 7, 0, 0",
        "F16, F32, 300007, 0, 0",
        "F16, F32, 4096, 8, 4",
        "F16, BF16, 70001, 0, 0",
        "F16, BF16, 1003, 3, 2"
    })
    default void cast(DType source, DType target, int n, int fromOffset, int toOffset) {
        Tensor from = part(fixture().poisoned(source, n + fromOffset), fromOffset);
        Tensor to = part(fixture().poisoned(target, n + toOffset), toOffset);
        Tensor expected = fixture().poisoned(target, n);
        double[] values = fixture().gaussians(n, 1);
        // Ties of 7 and of 10 bits, to both sides; numbers too small and too large; zeros.
        double[] special = {
            1 + 0x1p-8, 1 + 0x3p-8, 1 + 0x1p-11, 1 + 0x3p-11, 65519, 65520, -1e-7, 3e-8, Float.MAX_VALUE, 1e-40, -0.0
        };
        for (int i = 0; i < Math.min(n, special.length); i++) {
            values[n - 1 - i] = special[i];
        }
        fixture().write(from, values);
        fixture().write(expected, fixture().read(from));

        fixture().run((kernels, stream) -> kernels.cast(stream, from, to));

        assertThat(fixture().bytes(to).mismatch(fixture().bytes(expected)))
                .as("first byte that is not the rounded number's")
                .isEqualTo(-1);
    }

    @ParameterizedTest
    @CsvSource({"F32, BF16", "F32, F16", "BF16, F32", "BF16, F16", "F16, F32", "F16, BF16"})
    default void castKeepsWhatIsNotFinite(DType source, DType target) {
        Tensor from = fixture().poisoned(source, 19);
        Tensor to = fixture().normal(target, 19);
        fixture().write(part(from, 16), new double[] {Double.NEGATIVE_INFINITY, Double.POSITIVE_INFINITY, Double.NaN});

        fixture().run((kernels, stream) -> kernels.cast(stream, from, to));

        double[] cast = fixture().read(to);
        assertThat(Arrays.copyOf(cast, 16)).containsOnly(Double.NaN);
        assertThat(Arrays.copyOfRange(cast, 16, 19))
                .containsExactly(Double.NEGATIVE_INFINITY, Double.POSITIVE_INFINITY, Double.NaN);
    }

    private static Tensor part(Tensor tensor, int from) {
        return tensor.memory()
                .tensor(
                        tensor.offset() + (long) from * tensor.dtype().bytes(),
                        tensor.dtype(),
                        Shape.of(tensor.elements() - from));
    }
}
