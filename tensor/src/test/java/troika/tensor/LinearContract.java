package troika.tensor;

import static troika.tensor.KernelsFixture.sum;

import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/// The linear layer's products.
interface LinearContract extends FixtureHolder {
    @ParameterizedTest
    @CsvSource({
        "F32, NONE, 37, 72, 104",
        "F32, SEPARATE, 37, 72, 104",
        "F32, IN_PLACE, 301, 72, 40",
        "BF16, NONE, 37, 72, 104",
        "BF16, SEPARATE, 301, 72, 40",
        "BF16, IN_PLACE, 37, 72, 104",
        "BF16, NONE, 1, 72, 104",
        "F16, NONE, 37, 72, 104",
        "F16, IN_PLACE, 301, 72, 40"
    })
    default void linear(DType dtype, LayerContract.Residual kind, int rows, int inputs, int outputs) {
        Tensor x = fixture().normal(dtype, rows, inputs);
        Tensor weight = fixture().normal(dtype, outputs, inputs);
        Tensor residual = fixture().normal(dtype, rows, outputs);
        boolean inPlace = kind == LayerContract.Residual.IN_PLACE;
        Tensor out = inPlace ? residual : fixture().poisoned(dtype, rows, outputs);
        Tensor past = kind == LayerContract.Residual.NONE ? null : residual;
        double[] transposed = Oracle.transposed(fixture().read(weight), outputs, inputs);
        double[] expected = Oracle.product(fixture().read(x), transposed, rows, inputs, outputs);
        if (past != null) {
            expected = sum(expected, fixture().read(past));
        }

        fixture().run((kernels, stream) -> kernels.linear(stream, x, weight, past, out));

        fixture().assertClose(dtype, out, expected);
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16", "F16"})
    default void linearBackwardInput(DType dtype) {
        Tensor gradOut = fixture().normal(dtype, 37, 104);
        Tensor weight = fixture().normal(dtype, 104, 72);
        Tensor gradX = fixture().poisoned(dtype, 37, 72);

        fixture().run((kernels, stream) -> kernels.linearBackwardInput(stream, gradOut, weight, gradX));

        double[] expected = Oracle.product(fixture().read(gradOut), fixture().read(weight), 37, 104, 72);
        fixture().assertClose(dtype, gradX, expected);
    }

    @ParameterizedTest
    @CsvSource({"F32, false, 37", "F32, true, 301", "BF16, false, 301", "BF16, true, 37", "F16, true, 301"})
    default void linearBackwardWeight(DType dtype, boolean accumulate, int rows) {
        Tensor gradOut = fixture().normal(dtype, rows, 104);
        Tensor x = fixture().normal(dtype, rows, 72);
        Tensor gradWeight = fixture().poisoned(DType.F32, 104, 72);
        double[] transposed = Oracle.transposed(fixture().read(gradOut), rows, 104);
        double[] expected = Oracle.product(transposed, fixture().read(x), 104, rows, 72);
        if (accumulate) {
            double[] before = fixture().gaussians(gradWeight.elements(), 10);
            fixture().write(gradWeight, before);
            expected = sum(expected, before);
        }

        fixture().run((kernels, stream) -> kernels.linearBackwardWeight(stream, gradOut, x, gradWeight, accumulate));

        fixture().assertClose(DType.F32, gradWeight, expected);
    }
}
