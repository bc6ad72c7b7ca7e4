package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// The gradient's norm, clipping and AdamW.
interface OptimizerContract extends FixtureHolder {
    @ParameterizedTest
    @CsvSource({"1, false", "1003, true", "300007, false", "300007, true", "0, false"})
    default void sumSquares(int n, boolean accumulate) {
        Tensor x = fixture().normal(DType.F32, n);
        Tensor out = accumulate ? fixture().floats(1234.5) : fixture().poisoned(DType.F32, 1);
        double expected = accumulate ? 1234.5 : 0;
        for (double value : fixture().read(x)) {
            expected += value * value;
        }

        fixture().run((kernels, stream) -> kernels.sumSquares(stream, x, out, accumulate));

        fixture().assertClose(DType.F32, out, new double[] {expected});
    }

    @ParameterizedTest
    @CsvSource({
        "16, 2, 1, 1, 4, 0.25",
        "16, 2, 1, 0, 4, 1",
        "16, 2, 1, 5, 4, 1",
        "16, 2, 0.5, 1, 2, 0.25",
        "16, 2, 0.125, 1, 0.5, 0.125",
        "16, 2, 0.25, 0, 1, 0.25",
        "NaN, 2, 1, 1, NaN, NaN",
        "Infinity, 2, 1, 1, Infinity, NaN",
        "Infinity, 2, 1, 0, Infinity, NaN",
        "16, NaN, 1, 1, 4, NaN",
        "16, Infinity, 1, 5, 4, NaN",
        "0, 2, 1, 1, 0, 1"
    })
    default void clipFactor(double sum, double lossValue, double scale, float maxNorm, double norm, double factor) {
        Tensor unscale = fixture().floats(scale);
        Tensor sumSquares = fixture().floats(sum);
        Tensor loss = fixture().floats(lossValue);
        Tensor out = fixture().poisoned(DType.F32, 2);

        fixture().run((kernels, stream) -> kernels.clipFactor(stream, sumSquares, loss, unscale, maxNorm, out));

        double[] actual = fixture().read(out);
        assertThat(Double.valueOf(actual[0])).isEqualTo(Double.valueOf(norm));
        if (Double.isNaN(factor)) {
            assertThat(actual[1]).isNaN();
        } else {
            assertThat(actual[1]).isBetween(factor - 1e-6, factor);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "F32, 10007, 5003, false",
        "F32, 10007, 0, true",
        "BF16, 10007, 5003, false",
        "BF16, 70001, 70001, false",
        "BF16, 100, 33, false",
        "F16, 10007, 5003, false",
        "F32, 3, 1, false"
    })
    default void adamw(DType dtype, int n, long decayed, boolean weightIsMaster) {
        Tensor master = fixture().normal(DType.F32, n);
        Tensor weight = weightIsMaster ? master : fixture().poisoned(dtype, n);
        Tensor moment1 = fixture().poisoned(DType.F32, n);
        Tensor moment2 = fixture().poisoned(DType.F32, n);
        fixture().write(moment1, new double[n]);
        fixture().write(moment2, new double[n]);
        Tensor gradient = fixture().poisoned(DType.F32, n);
        Tensor clip = fixture().floats(7, 0.3);
        Tensor scalars = fixture().poisoned(DType.F32, 4);
        Oracle.AdamW settings = new Oracle.AdamW(0.01f, 0.9f, 0.95f, 1e-8f, 0.1f);
        double[] expected = fixture().read(master);
        double[] expected1 = new double[n];
        double[] expected2 = new double[n];
        double factor = fixture().read(clip)[1];
        for (int step = 1; step <= 3; step++) {
            fixture().write(gradient, fixture().gaussians(n, 0.1));
            double correction1 = 1 - Math.pow(settings.beta1(), step);
            double correction2 = Math.sqrt(1 - Math.pow(settings.beta2(), step));
            fixture().write(scalars, new double[] {settings.learningRate(), 1 / correction1, 1 / correction2, 0});
            double[] g = fixture().read(gradient);
            Oracle.adamw(expected, expected1, expected2, g, factor, step, decayed, settings);

            fixture()
                    .run((kernels, stream) -> kernels.adamw(
                            stream,
                            master,
                            moment1,
                            moment2,
                            gradient,
                            weight,
                            clip,
                            scalars,
                            decayed,
                            settings.beta1(),
                            settings.beta2(),
                            settings.epsilon(),
                            settings.weightDecay(),
                            0));
        }

        fixture().assertClose(DType.F32, master, expected);
        fixture().assertClose(DType.F32, moment1, expected1);
        fixture().assertClose(DType.F32, moment2, expected2);
        assertRounded(master, weight);
    }

    private void assertRounded(Tensor master, Tensor weight) {
        double[] exact = fixture().read(master);
        double[] rounded = fixture().read(weight);
        for (int i = 0; i < exact.length; i++) {
            float value = (float) exact[i];
            float expected = switch (weight.dtype()) {
                case BF16 -> Float.intBitsToFloat(KernelsFixture.bf16(value) << 16);
                case F16 -> Float.float16ToFloat(Float.floatToFloat16(value));
                case F32, I32 -> value;
            };
            assertThat(Float.valueOf((float) rounded[i])).isEqualTo(Float.valueOf(expected));
        }
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    default void adamwChangesNothingWhereTheFactorIsNaN(boolean noGradient) {
        Tensor master = fixture().normal(DType.F32, 103);
        Tensor moment1 = fixture().normal(DType.F32, 103);
        Tensor moment2 = fixture().normal(DType.F32, 103);
        Tensor gradient =
                noGradient ? fixture().poisoned(DType.F32, 103) : fixture().normal(DType.F32, 103);
        Tensor weight = fixture().normal(DType.BF16, 103);
        Tensor clip = fixture().floats(1, Double.NaN);
        Tensor scalars = fixture().floats(0.1, 2, 2, 0);
        double[][] before = {
            fixture().read(master),
            fixture().read(moment1),
            fixture().read(moment2),
            fixture().read(weight)
        };

        fixture()
                .run((kernels, stream) -> kernels.adamw(
                        stream, master, moment1, moment2, gradient, weight, clip, scalars, 50, 0.9f, 0.95f, 1e-8f, 0.1f,
                        0));

        assertThat(fixture().read(master)).containsExactly(before[0]);
        assertThat(fixture().read(moment1)).containsExactly(before[1]);
        assertThat(fixture().read(moment2)).containsExactly(before[2]);
        assertThat(fixture().read(weight)).containsExactly(before[3]);
    }

    @ParameterizedTest
    @CsvSource({"BF16, 10007, 0", "F16, 103, 77", "F32, 1003, 42949672900", "BF16, 1003, 4294966800"})
    default void momentsInBf16AreRoundedByTheDocumentedBits(DType dtype, int n, long first) {
        fixture().requireF16AndNarrowMoments();
        Tensor master = fixture().normal(DType.F32, n);
        Tensor moment1 = fixture().normal(DType.BF16, n);
        Tensor moment2 = fixture().poisoned(DType.BF16, n);
        double[] squares =
                Arrays.stream(fixture().gaussians(n, 0.1)).map(x -> x * x).toArray();
        fixture().write(moment2, squares);
        Tensor gradient = fixture().floats(new double[n]);
        Tensor weight = fixture().poisoned(dtype, n);
        Tensor clip = fixture().floats(1, 1);
        int seed = 0x3456789a;
        Tensor scalars = fixture().floats(0.01, 2, 3, Float.intBitsToFloat(seed));
        double[] m = fixture().read(moment1);
        double[] v = fixture().read(moment2);
        double[] expected = fixture().read(master);

        // Without a gradient and with these factors the moments before rounding are exact products.
        fixture()
                .run((kernels, stream) -> kernels.adamw(
                        stream, master, moment1, moment2, gradient, weight, clip, scalars, 0, 0.71f, 0.83f, 1e-8f, 0,
                        first));

        double[] actual1 = fixture().read(moment1);
        double[] actual2 = fixture().read(moment2);
        for (int i = 0; i < n; i++) {
            float m1 = (float) m[i] * 0.71f;
            float v1 = (float) v[i] * 0.83f;
            int random = Oracle.momentBits(seed, first + i);
            assertThat(Float.floatToRawIntBits((float) actual1[i]))
                    .as("m of element " + i)
                    .isEqualTo((Float.floatToRawIntBits(m1) + (random & 0xffff)) >>> 16 << 16);
            assertThat(Float.floatToRawIntBits((float) actual2[i]))
                    .as("v of element " + i)
                    .isEqualTo((Float.floatToRawIntBits(v1) + (random >>> 16)) >>> 16 << 16);
            expected[i] -= 0.01 * 2 * m1 / (Math.sqrt(v1) * 3 + 1e-8);
        }
        fixture().assertClose(DType.F32, master, expected);
        assertRounded(master, weight);
    }

    @Test
    default void weightsAreRoundedToNearestEven() {
        double[] values = {
            0x1.01p0,
            0x1.03p0,
            0x1.010002p0,
            0x1.00fffep0,
            -0x1.01p0,
            -0x1.03p0,
            0x1.fep0,
            0x1.ffp0,
            0,
            1e-40,
            -3e-39,
            Double.NaN,
            Double.POSITIVE_INFINITY,
            Float.MAX_VALUE,
            Double.NEGATIVE_INFINITY,
            3e38,
            1,
            -2,
            0.1
        };
        int n = values.length;
        Tensor master = fixture().floats(values);
        Tensor zeros1 = fixture().floats(new double[n]);
        Tensor zeros2 = fixture().floats(new double[n]);
        Tensor gradient = fixture().floats(new double[n]);
        Tensor weight = fixture().poisoned(DType.BF16, n);
        Tensor clip = fixture().floats(0, 1);
        Tensor scalars = fixture().floats(0, 1, 1, 0);

        fixture()
                .run((kernels, stream) -> kernels.adamw(
                        stream, master, zeros1, zeros2, gradient, weight, clip, scalars, 0, 0.9f, 0.95f, 1e-8f, 0.1f,
                        0));

        double[] rounded = fixture().read(weight);
        assertThat(rounded).startsWith(1, 0x1.04p0, 0x1.02p0, 1, -1, -0x1.04p0, 0x1.fep0, 2);
        assertThat(rounded[11]).isNaN();
        assertThat(rounded[12]).isEqualTo(Double.POSITIVE_INFINITY);
        assertThat(rounded[13]).isEqualTo(Double.POSITIVE_INFINITY);
        assertRounded(master, weight);
    }
}
