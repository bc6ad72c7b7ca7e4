package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static troika.tensor.KernelsFixture.sum;

import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/// Embedding, RMSNorm, rotary position embedding and SwiGLU.
interface LayerContract extends FixtureHolder {
    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16", "F16"})
    default void embedding(DType dtype) {
        int[] tokens = fixture().indices(37, 1003);
        Tensor table = fixture().normal(dtype, 1003, 72);
        Tensor tokenTensor = fixture().integers(tokens);
        Tensor out = fixture().poisoned(dtype, 37, 72);

        fixture().run((kernels, stream) -> kernels.embedding(stream, tokenTensor, table, 0, out));

        assertThat(fixture().read(out))
                .containsExactly(Oracle.embedding(tokens, fixture().read(table), 72, 0));
    }

    @ParameterizedTest
    @CsvSource({
        "F32, false, 1003, 137, 75",
        "F32, true, 5, 137, 72",
        "BF16, false, 5, 137, 75",
        "BF16, true, 1003, 137, 2312",
        "BF16, false, 7, 5003, 40",
        "F16, false, 1003, 137, 72",
        "F16, false, 5, 137, 75",
        "F16, true, 1003, 137, 75",
        "F16, true, 3, 1303, 75"
    })
    default void embeddingBackward(DType dtype, boolean accumulate, int vocabulary, int rows, int columns) {
        int[] tokens = fixture().indices(rows, vocabulary);
        Tensor gradOut = fixture().normal(dtype, rows, columns);
        Tensor tokenTensor = fixture().integers(tokens);
        Tensor gradTable = fixture().poisoned(DType.F32, vocabulary, columns);
        double[] expected = Oracle.embeddingBackward(tokens, fixture().read(gradOut), vocabulary, columns, 0);
        if (accumulate) {
            double[] before = fixture().gaussians(gradTable.elements(), 1);
            fixture().write(gradTable, before);
            expected = sum(expected, before);
        }

        fixture()
                .run((kernels, stream) ->
                        kernels.embeddingBackward(stream, tokenTensor, gradOut, 0, gradTable, accumulate));

        fixture().assertClose(DType.F32, gradTable, expected);
    }

    @ParameterizedTest
    @CsvSource({
        "F32, 72",
        "BF16, 72",
        "F16, 72",
        "F32, 333",
        "BF16, 333",
        "F16, 333",
        "F32, 5120",
        "BF16, 2048",
        "BF16, 10248",
        "F16, 9001"
    })
    default void rmsNorm(DType dtype, int columns) {
        Tensor x = fixture().normal(dtype, 37, columns);
        Tensor weight = fixture().normal(dtype, columns);
        Tensor out = fixture().poisoned(dtype, 37, columns);
        Tensor rstd = fixture().poisoned(DType.F32, 37);

        fixture().run((kernels, stream) -> kernels.rmsNorm(stream, x, weight, 0.5f, out, rstd));

        double[] expected = Oracle.rmsNorm(fixture().read(x), fixture().read(weight), 0.5);
        fixture().assertClose(dtype, out, expected);
        fixture().assertClose(DType.F32, rstd, Oracle.rstd(fixture().read(x), columns, 0.5));
    }

    /// A residual, its place, and whether the weight's gradient accumulates.
    enum Residual {
        NONE,
        SEPARATE,
        IN_PLACE
    }

    @ParameterizedTest
    @CsvSource({
        "F32, NONE, false, 37, 72",
        "F32, SEPARATE, true, 301, 75",
        "F32, IN_PLACE, false, 37, 333",
        "BF16, NONE, true, 301, 75",
        "BF16, SEPARATE, false, 37, 72",
        "BF16, IN_PLACE, true, 37, 333",
        "F32, SEPARATE, false, 37, 5120",
        "BF16, IN_PLACE, true, 2003, 72",
        "BF16, SEPARATE, true, 37, 2048",
        "BF16, NONE, false, 37, 10248",
        "F16, NONE, true, 301, 75",
        "F16, SEPARATE, false, 37, 72",
        "F16, SEPARATE, true, 301, 72",
        "F16, SEPARATE, true, 700, 333",
        "F16, IN_PLACE, true, 37, 333",
        "F16, IN_PLACE, false, 37, 4999"
    })
    default void rmsNormBackward(DType dtype, Residual kind, boolean accumulate, int rows, int columns) {
        Tensor gradOut = fixture().normal(dtype, rows, columns);
        Tensor x = fixture().normal(dtype, rows, columns);
        Tensor weight = fixture().normal(dtype, columns);
        Tensor rstd = fixture().poisoned(DType.F32, rows);
        fixture().write(rstd, Oracle.rstd(fixture().read(x), columns, 1e-6));
        Tensor residual = fixture().normal(dtype, rows, columns);
        Tensor gradX = kind == Residual.IN_PLACE ? residual : fixture().poisoned(dtype, rows, columns);
        Tensor gradWeight = fixture().poisoned(DType.F32, columns);
        double[] go = fixture().read(gradOut);
        double[] expectedX = Oracle.rmsNormGradX(
                go, fixture().read(x), fixture().read(weight), fixture().read(rstd));
        if (kind != Residual.NONE) {
            expectedX = sum(expectedX, fixture().read(residual));
        }
        double[] expectedWeight =
                Oracle.rmsNormGradWeight(go, fixture().read(x), fixture().read(rstd), columns);
        if (accumulate) {
            double[] before = fixture().gaussians(columns, 10);
            fixture().write(gradWeight, before);
            expectedWeight = sum(expectedWeight, before);
        }
        Tensor past = kind == Residual.NONE ? null : residual;
        // What the forward gave is made again, bit for bit.
        Tensor out = fixture().poisoned(dtype, rows, columns);
        fixture().run((kernels, stream) -> kernels.rmsNorm(stream, x, weight, 1e-6f, out, rstd));
        Tensor again = kind == Residual.SEPARATE ? null : fixture().poisoned(dtype, rows, columns);

        fixture()
                .run((kernels, stream) -> kernels.rmsNormBackward(
                        stream, gradOut, x, weight, rstd, past, gradX, gradWeight, again, accumulate));

        fixture().assertClose(dtype, gradX, expectedX);
        fixture().assertClose(DType.F32, gradWeight, expectedWeight);
        if (again != null) {
            assertThat(fixture().read(again)).containsExactly(fixture().read(out));
        }
    }

    @ParameterizedTest
    @CsvSource({
        "F32, 64, false",
        "F32, 10, true",
        "BF16, 64, true",
        "BF16, 10, false",
        "BF16, 128, false",
        "F16, 64, false",
        "F16, 64, true",
        "F16, 10, false",
        "F16, 10, true",
        "F16, 128, false"
    })
    default void rope(DType dtype, int headSize, boolean inverse) {
        int heads = 5;
        int columns = 7 * headSize;
        int[] positions = fixture().indices(37, 91);
        Tensor x = fixture().normal(dtype, 37, columns);
        Tensor positionTensor = fixture().integers(positions);
        Tensor table = fixture().normal(DType.F32, 91, headSize);
        double[] before = fixture().read(x);

        fixture().run((kernels, stream) -> kernels.rope(stream, x, positionTensor, table, heads, headSize, inverse));

        double[] angles = fixture().read(table);
        double[] expected = Oracle.rope(before, columns, positions, angles, heads, headSize, inverse);
        fixture().assertClose(dtype, x, expected);
        double[] after = fixture().read(x);
        for (int i = 0; i < after.length; i++) {
            if (i % columns >= heads * headSize) {
                assertThat(after[i]).isEqualTo(before[i]);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"F32, 43", "BF16, 43", "F16, 43", "F32, 688", "BF16, 688", "F16, 688", "BF16, 5504", "F32, 1"})
    default void swiglu(DType dtype, int columns) {
        Tensor gateUp = gateUp(dtype, columns);
        Tensor out = fixture().poisoned(dtype, 37, columns);

        fixture().run((kernels, stream) -> kernels.swiglu(stream, gateUp, out));

        fixture().assertClose(dtype, out, Oracle.swiglu(fixture().read(gateUp), columns));
    }

    @ParameterizedTest
    @CsvSource({
        "F32, 43, false",
        "BF16, 43, true",
        "F16, 43, false",
        "F16, 43, true",
        "F32, 688, true",
        "BF16, 688, false",
        "F16, 688, false",
        "F16, 688, true",
        "BF16, 5504, true",
        "F32, 1, false"
    })
    default void swigluBackward(DType dtype, int columns, boolean inPlace) {
        Tensor gateUp = gateUp(dtype, columns);
        Tensor gradOut = fixture().normal(dtype, 37, columns);
        Tensor gradGateUp = inPlace ? gateUp : fixture().poisoned(dtype, 37, 2L * columns);
        double[] expected =
                Oracle.swigluBackward(fixture().read(gradOut), fixture().read(gateUp), columns);

        Tensor out = fixture().poisoned(dtype, 37, columns);
        fixture().run((kernels, stream) -> kernels.swiglu(stream, gateUp, out));
        Tensor again = columns == 43 ? null : fixture().poisoned(dtype, 37, columns);

        fixture().run((kernels, stream) -> kernels.swigluBackward(stream, gradOut, gateUp, gradGateUp, again));

        fixture().assertClose(dtype, gradGateUp, expected);
        if (again != null) {
            assertThat(fixture().read(again)).containsExactly(fixture().read(out));
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16", "F16"})
    default void tensorsMayBeginAnywhere(DType dtype) {
        fixture().misalign(dtype);
        Tensor gateUp = gateUp(dtype, 688);
        fixture().misalign(dtype);
        Tensor out = fixture().poisoned(dtype, 37, 688);
        Tensor weight = fixture().normal(dtype, 688);
        fixture().misalign(dtype);
        Tensor normed = fixture().poisoned(dtype, 37, 688);
        Tensor rstd = fixture().poisoned(DType.F32, 37);

        fixture().run((kernels, stream) -> {
            kernels.swiglu(stream, gateUp, out);
            kernels.rmsNorm(stream, out, weight, 1e-6f, normed, rstd);
        });

        fixture().assertClose(dtype, out, Oracle.swiglu(fixture().read(gateUp), 688));
        double[] expected = Oracle.rmsNorm(fixture().read(out), fixture().read(weight), 1e-6);
        fixture().assertClose(dtype, normed, expected);
    }

    // Some gates are so large that a careless sigmoid overflows.
    private Tensor gateUp(DType dtype, int columns) {
        Tensor gateUp = fixture().poisoned(dtype, 37, 2L * columns);
        double[] values = fixture().gaussians(gateUp.elements(), 2);
        values[0] = -200;
        values[1] = 200;
        values[2] = -89;
        values[3] = 89;
        fixture().write(gateUp, values);
        return gateUp;
    }
}
