package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;

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
        "F16, 20008, true, false"
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
}
