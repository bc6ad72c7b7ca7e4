package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Cross-entropy.
interface LossContract extends FixtureHolder {
    @ParameterizedTest
    @CsvSource({
        "F32, 1003, true, false",
        "F32, 1003, false, true",
        "F32, 5003, true, true",
        "F32, 5, true, false",
        "BF16, 1003, true, true",
        "BF16, 1003, false, false",
        "BF16, 5003, true, false",
        "BF16, 4096, true, false",
        "BF16, 70001, true, false",
        "F32, 60008, true, false",
        "F16, 1003, true, true",
        "F16, 1003, false, false",
        "F16, 5003, true, false",
        "F16, 20008, true, false",
        "F16, 30011, true, true"
    })
    default void crossEntropy(DType dtype, int vocabulary, boolean gradient, boolean accumulate) {
        int rows = vocabulary > 40_000 ? 11 : 37;
        int[] labels = fixture().indices(rows, vocabulary);
        labels[3] = -100;
        labels[rows - 1] = -1;
        double[] values = fixture().gaussians((long) rows * vocabulary, 4);
        for (int i = 0; i < vocabulary; i++) {
            // Without its maximum subtracted this row overflows; the next underflows.
            values[4 * vocabulary + i] += 500;
            values[5 * vocabulary + i] -= 500;
            // The maximum grows along this row.
            values[6 * vocabulary + i] += 40.0 * i / vocabulary;
        }
        Tensor logits = fixture().poisoned(dtype, rows, vocabulary);
        fixture().write(logits, values);
        double[] before = fixture().read(logits);
        Tensor labelTensor = fixture().integers(labels);
        Tensor scale = fixture().floats(1.0 / 35);
        Tensor loss = accumulate ? fixture().floats(2.5) : fixture().poisoned(DType.F32, 1);
        Oracle.CrossEntropy expected =
                Oracle.crossEntropy(before, labels, fixture().read(scale)[0]);

        fixture()
                .run((kernels, stream) ->
                        kernels.crossEntropy(stream, logits, labelTensor, scale, loss, gradient, accumulate));

        fixture().assertClose(DType.F32, loss, new double[] {expected.loss() + (accumulate ? 2.5 : 0)});
        if (gradient) {
            fixture().assertClose(dtype, logits, expected.gradient());
        } else {
            assertThat(fixture().read(logits)).containsExactly(before);
        }
    }

    @ParameterizedTest
    @CsvSource({"F32", "BF16", "F16"})
    default void crossEntropyOfAConfidentModelIsNearZero(DType dtype) {
        double[] values = new double[2 * 77];
        values[5] = 60;
        values[77 + 76] = 60;
        Tensor logits = fixture().poisoned(dtype, 2, 77);
        fixture().write(logits, values);
        Tensor labels = fixture().integers(5, 76);
        Tensor scale = fixture().floats(0.5);
        Tensor loss = fixture().poisoned(DType.F32, 1);

        fixture().run((kernels, stream) -> kernels.crossEntropy(stream, logits, labels, scale, loss, true, false));

        assertThat(fixture().read(loss)[0]).isBetween(-1e-6, 1e-6);
        assertThat(fixture().read(logits)).usingComparatorWithPrecision(1e-6).containsOnly(0);
    }

    /// Alone among finite numbers minus infinity would have the probability 0, and nobody would see it.
    @ParameterizedTest
    @CsvSource({
        "F32, NaN, 0, true",
        "F32, Infinity, 1002, true",
        "F32, -Infinity, 500, true",
        "F32, -Infinity, 1002, false",
        "BF16, NaN, 1002, false",
        "BF16, Infinity, 500, true",
        "BF16, -Infinity, 0, true",
        "BF16, -Infinity, 1002, true",
        "F16, NaN, 500, true",
        "F16, Infinity, 0, false",
        "F16, -Infinity, 1001, true"
    })
    default void aLogitThatIsNotFiniteMakesTheLossNaN(DType dtype, double value, int column, boolean gradient) {
        int columns = 1003;
        double[] values = fixture().gaussians(3L * columns, 4);
        values[columns + column] = value;
        Tensor logits = fixture().poisoned(dtype, 3, columns);
        fixture().write(logits, values);
        Tensor labels = fixture().integers(7, 8, 9);
        Tensor scale = fixture().floats(0.5);
        Tensor loss = fixture().poisoned(DType.F32, 1);
        fixture().write(loss, new double[] {0});

        fixture().run((kernels, stream) -> kernels.crossEntropy(stream, logits, labels, scale, loss, gradient, false));

        assertThat(fixture().read(loss)[0]).isNaN();
        if (gradient) {
            double[] actual = fixture().read(logits);
            for (int i = 0; i < actual.length; i++) {
                assertThat(Double.isNaN(actual[i])).as("element " + i).isEqualTo(i / columns == 1);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"F32, NaN", "BF16, Infinity", "F16, -Infinity"})
    default void logitsWithoutATargetMayBeAnything(DType dtype, double value) {
        double[] values = fixture().gaussians(2 * 77, 4);
        values[5] = value;
        values[76] = value;
        Tensor logits = fixture().poisoned(dtype, 2, 77);
        fixture().write(logits, values);
        Tensor labels = fixture().integers(-100, 3);
        Tensor scale = fixture().floats(0.5);
        Tensor loss = fixture().poisoned(DType.F32, 1);

        fixture().run((kernels, stream) -> kernels.crossEntropy(stream, logits, labels, scale, loss, true, false));

        assertThat(fixture().read(loss)[0]).isFinite();
        double[] actual = fixture().read(logits);
        assertThat(Arrays.copyOf(actual, 77)).containsOnly(0);
        assertThat(Arrays.stream(actual)).allMatch(Double::isFinite);
    }
}
