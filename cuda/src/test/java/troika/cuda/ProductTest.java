package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import org.junit.jupiter.api.Test;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;

class ProductTest {
    private static final Memory MEMORY = new Memory("test", 1L << 20, 1L << 30, false);

    private static Tensor tensor(long offset, DType dtype, long... sizes) {
        return MEMORY.tensor(offset, dtype, Shape.of(sizes));
    }

    @Test
    void forwardIsColumnMajorWithTheWeightFirst() {
        Tensor x = tensor(0, DType.BF16, 2, 5, 7);
        Tensor weight = tensor(4096, DType.BF16, 3, 7);
        Tensor out = tensor(8192, DType.BF16, 10, 3);

        Product.Call call = Product.linear(x, weight, null, out);

        assertThat(call)
                .isEqualTo(new Product.Call(
                        new Product(Product.Kind.FORWARD, 3, 10, 7, DType.BF16, DType.BF16, false, 256, 256, 256, 256),
                        weight.address(),
                        x.address(),
                        out.address(),
                        out.address()));
    }

    @Test
    void aResidualIsAddedFromWhereItLies() {
        Tensor x = tensor(0, DType.F16, 10, 7);
        Tensor weight = tensor(4098, DType.F16, 3, 7);
        Tensor residual = tensor(8208, DType.F16, 10, 3);
        Tensor out = tensor(16388, DType.F16, 10, 3);

        Product.Call call = Product.linear(x, weight, residual, out);

        assertThat(call.c()).isEqualTo(residual.address());
        assertThat(call.d()).isEqualTo(out.address());
        assertThat(call.product())
                .isEqualTo(new Product(Product.Kind.FORWARD, 3, 10, 7, DType.F16, DType.F16, true, 2, 256, 16, 4));
    }

    @Test
    void backwardProducts() {
        Tensor gradOut = tensor(0, DType.BF16, 10, 3);
        Tensor x = tensor(4096, DType.BF16, 10, 7);
        Tensor weight = tensor(8192, DType.BF16, 3, 7);
        Tensor gradWeight = tensor(16384, DType.F32, 3, 7);

        Product.Call input = Product.linearBackwardInput(gradOut, weight, x);
        Product.Call added = Product.linearBackwardWeight(gradOut, x, gradWeight, true);
        Product.Call alone = Product.linearBackwardWeight(gradOut, x, gradWeight, false);

        assertThat(input)
                .isEqualTo(new Product.Call(
                        new Product(
                                Product.Kind.BACKWARD_INPUT,
                                7,
                                10,
                                3,
                                DType.BF16,
                                DType.BF16,
                                false,
                                256,
                                256,
                                256,
                                256),
                        weight.address(),
                        gradOut.address(),
                        x.address(),
                        x.address()));
        assertThat(added)
                .isEqualTo(new Product.Call(
                        new Product(
                                Product.Kind.BACKWARD_WEIGHT,
                                7,
                                3,
                                10,
                                DType.BF16,
                                DType.F32,
                                true,
                                256,
                                256,
                                256,
                                256),
                        x.address(),
                        gradOut.address(),
                        gradWeight.address(),
                        gradWeight.address()));
        assertThat(alone.product()).isNotEqualTo(added.product());
        assertThat(alone.product().toString()).isNotEqualTo(added.product().toString());
    }

    @Test
    void bytesAndOperationsAreThoseOfTheMatrices() {
        Product product =
                new Product(Product.Kind.BACKWARD_WEIGHT, 7, 3, 10, DType.BF16, DType.F32, true, 256, 256, 256, 256);
        assertThat(product.bytesA()).isEqualTo(7 * 10 * 2);
        assertThat(product.bytesB()).isEqualTo(3 * 10 * 2);
        assertThat(product.bytesD()).isEqualTo(7 * 3 * 4);
        assertThat(product.operations()).isEqualTo(2 * 7 * 3 * 10);
    }

    @Test
    void wrongArgumentsAreNamed() {
        Tensor x = tensor(0, DType.BF16, 10, 7);
        Tensor weight = tensor(4096, DType.BF16, 3, 7);
        Tensor out = tensor(8192, DType.BF16, 10, 3);
        Tensor narrow = tensor(8192, DType.BF16, 10, 2);
        Tensor floats = tensor(8192, DType.F32, 10, 3);
        Tensor integers = tensor(0, DType.I32, 10, 7);

        assertThatThrownBy(() -> Product.linear(x, weight, null, narrow))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("x BF16[10, 7], weight BF16[3, 7], out BF16[10, 2]; but the shapes");
        assertThatThrownBy(() -> Product.linear(x, weight, null, floats)).hasMessageContaining("compute dtype");
        assertThatThrownBy(() -> Product.linear(integers, weight, null, out)).hasMessageContaining("compute dtype");
        assertThatThrownBy(() -> Product.linear(x, weight, floats, out)).hasMessageContaining("residual is like out");
        assertThatThrownBy(() -> Product.linearBackwardWeight(out, x, weight, false))
                .hasMessageContaining("gradients of weights are F32");
    }

    @Test
    void noRowsLeaveNothingToSum() {
        Tensor gradOut = tensor(0, DType.F32, 0, 3);
        Tensor x = tensor(0, DType.F32, 0, 7);
        Product product = Product.linearBackwardWeight(gradOut, x, tensor(0, DType.F32, 3, 7), false)
                .product();
        assertThat(product.k()).isZero();
        assertThat(product.bytesD()).isEqualTo(84);
        assertThat(Product.linear(x, tensor(0, DType.F32, 3, 7), null, gradOut)
                        .product()
                        .n())
                .isZero();
    }

    @Property
    void alignmentNeverPromisesTooMuch(@ForAll long address) {
        int alignment = Product.alignment(address);
        assertThat(address % alignment).isZero();
        assertThat(alignment).isIn(1, 2, 4, 8, 16, 256);
        if (alignment < 16) {
            assertThat(address % (2L * alignment)).isNotZero();
        }
    }
}
