package troika.cuda;

import java.util.Locale;
import org.jspecify.annotations.Nullable;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// A matrix product as cuBLASLt, whose matrices are column-major, sees it: d `[m, n]` = op(a) · op(b) (+ c).
/// A row-major `[T, K]` is a column-major `[K, T]`, so weights come first and nothing is transposed in memory.
/// Products that are equal are computed by the same algorithm.
///
/// @param k the length of the sums
/// @param operands dtype of a and b
/// @param result dtype of c and d
/// @param adds whether c is added; it may be d
/// @param alignmentA bytes to which the address of a is aligned, one of [#alignment]'s; likewise of b, c and d
record Product(
        Kind kind,
        long m,
        long n,
        long k,
        DType operands,
        DType result,
        boolean adds,
        int alignmentA,
        int alignmentB,
        int alignmentC,
        int alignmentD) {
    /// Which matrices are transposed. A comment gives op(a) and op(b) by the names of [troika.tensor.Kernels].
    enum Kind {
        /// weightᵀ `[N, K]`, x `[K, T]`
        FORWARD(true, false),
        /// weight `[K, N]`, gradOut `[N, T]`
        BACKWARD_INPUT(false, false),
        /// x `[K, T]`, gradOutᵀ `[T, N]`
        BACKWARD_WEIGHT(false, true);

        private final boolean transposedA;
        private final boolean transposedB;

        Kind(boolean transposedA, boolean transposedB) {
            this.transposedA = transposedA;
            this.transposedB = transposedB;
        }

        boolean transposedA() {
            return transposedA;
        }

        boolean transposedB() {
            return transposedB;
        }
    }

    /// A product and the addresses of its matrices; c is d where nothing is added.
    record Call(Product product, long a, long b, long c, long d) {
        private static Call of(Kind kind, long k, Tensor a, Tensor b, @Nullable Tensor added, Tensor d) {
            Tensor c = added == null ? d : added;
            Product product = new Product(
                    kind,
                    d.columns(),
                    d.rows(),
                    k,
                    a.dtype(),
                    d.dtype(),
                    added != null,
                    alignment(a.address()),
                    alignment(b.address()),
                    alignment(c.address()),
                    alignment(d.address()));
            return new Call(product, a.address(), b.address(), c.address(), d.address());
        }
    }

    /// out = x · weightᵀ (+ residual)
    static Call linear(Tensor x, Tensor weight, @Nullable Tensor residual, Tensor out) {
        String call = "linear: x " + text(x) + ", weight " + text(weight)
                + (residual == null ? "" : ", residual " + text(residual)) + ", out " + text(out);
        compute(call, x, weight, out);
        shapes(call, x, weight, out);
        if (residual != null
                && (residual.dtype() != out.dtype() || !residual.shape().equals(out.shape()))) {
            throw new IllegalArgumentException(call + "; but residual is like out");
        }
        return Call.of(Kind.FORWARD, x.columns(), weight, x, residual, out);
    }

    /// gradX = gradOut · weight
    static Call linearBackwardInput(Tensor gradOut, Tensor weight, Tensor gradX) {
        String call =
                "linearBackwardInput: gradOut " + text(gradOut) + ", weight " + text(weight) + ", gradX " + text(gradX);
        compute(call, gradOut, weight, gradX);
        shapes(call, gradX, weight, gradOut);
        return Call.of(Kind.BACKWARD_INPUT, gradOut.columns(), weight, gradOut, null, gradX);
    }

    /// gradWeight (+)= gradOutᵀ · x
    static Call linearBackwardWeight(Tensor gradOut, Tensor x, Tensor gradWeight, boolean accumulate) {
        String call = "linearBackwardWeight: gradOut " + text(gradOut) + ", x " + text(x) + ", gradWeight "
                + text(gradWeight);
        compute(call, gradOut, x);
        shapes(call, x, gradWeight, gradOut);
        if (gradWeight.dtype() != DType.F32) {
            throw new IllegalArgumentException(call + "; but gradients of weights are F32");
        }
        return Call.of(Kind.BACKWARD_WEIGHT, x.rows(), x, gradOut, accumulate ? gradWeight : null, gradWeight);
    }

    private static String text(Tensor tensor) {
        return tensor.dtype().toString() + tensor.shape();
    }

    private static void compute(String call, Tensor first, Tensor... others) {
        boolean same = first.dtype().isFloating();
        for (Tensor other : others) {
            same &= other.dtype() == first.dtype();
        }
        if (!same) {
            throw new IllegalArgumentException(call + "; but the compute dtype is F32, BF16 or F16, the same for all");
        }
    }

    /// x `[T, K]`, weight `[N, K]`, out `[T, N]`
    private static void shapes(String call, Tensor x, Tensor weight, Tensor out) {
        if (x.columns() == 0
                || out.columns() == 0
                || x.columns() != weight.columns()
                || out.columns() != weight.rows()
                || x.rows() != out.rows()) {
            throw new IllegalArgumentException(call + "; but the shapes are [T, K], [N, K] and [T, N]");
        }
    }

    /// The bytes to which an address is aligned, of the classes that decide which algorithms can run: 256 is what
    /// cuBLASLt takes for granted, 16 what vector loads and TMA need.
    static int alignment(long address) {
        int bytes = 1 << Math.min(8, Long.numberOfTrailingZeros(address));
        return bytes >= 16 && bytes < 256 ? 16 : bytes;
    }

    /// Floating-point operations.
    double operations() {
        return 2.0 * m * n * k;
    }

    long bytesA() {
        return m * k * operands.bytes();
    }

    long bytesB() {
        return k * n * operands.bytes();
    }

    long bytesD() {
        return m * n * result.bytes();
    }

    @Override
    public String toString() {
        return kind.name().toLowerCase(Locale.ROOT) + " m=" + m + " n=" + n + " k=" + k + " " + operands
                + "->" + result + (adds ? " added" : "") + " aligned " + alignmentA + "," + alignmentB + ","
                + alignmentC + "," + alignmentD;
    }
}
