package troika.cuda;

import org.jspecify.annotations.Nullable;
import troika.tensor.AttentionShape;
import troika.tensor.Kernels;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Placeholder, which the kernels' own class replaces.
final class CudaKernels implements Kernels {
    CudaKernels(CudaDevice device) {
        device.bind();
    }

    @Override
    public void embedding(Stream stream, Tensor tokens, Tensor table, Tensor out) {
        throw new UnsupportedOperationException("embedding");
    }

    @Override
    public void embeddingBackward(Stream stream, Tensor tokens, Tensor gradOut, Tensor gradTable, boolean accumulate) {
        throw new UnsupportedOperationException("embeddingBackward");
    }

    @Override
    public void rmsNorm(Stream stream, Tensor x, Tensor weight, float epsilon, Tensor out, Tensor rstd) {
        throw new UnsupportedOperationException("rmsNorm");
    }

    @Override
    public void rmsNormBackward(
            Stream stream,
            Tensor gradOut,
            Tensor x,
            Tensor weight,
            Tensor rstd,
            @Nullable Tensor residual,
            Tensor gradX,
            Tensor gradWeight,
            @Nullable Tensor out,
            boolean accumulate) {
        throw new UnsupportedOperationException("rmsNormBackward");
    }

    @Override
    public void linear(Stream stream, Tensor x, Tensor weight, @Nullable Tensor residual, Tensor out) {
        throw new UnsupportedOperationException("linear");
    }

    @Override
    public void linearBackwardInput(Stream stream, Tensor gradOut, Tensor weight, Tensor gradX) {
        throw new UnsupportedOperationException("linearBackwardInput");
    }

    @Override
    public void linearBackwardWeight(Stream stream, Tensor gradOut, Tensor x, Tensor gradWeight, boolean accumulate) {
        throw new UnsupportedOperationException("linearBackwardWeight");
    }

    @Override
    public void rope(
            Stream stream, Tensor x, Tensor positions, Tensor table, int heads, int headSize, boolean inverse) {
        throw new UnsupportedOperationException("rope");
    }

    @Override
    public void attention(
            Stream stream, AttentionShape shape, Tensor qkv, Tensor positions, Tensor out, Tensor logSumExp) {
        throw new UnsupportedOperationException("attention");
    }

    @Override
    public void attentionBackward(
            Stream stream,
            AttentionShape shape,
            Tensor gradOut,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Tensor gradQkv) {
        throw new UnsupportedOperationException("attentionBackward");
    }

    @Override
    public void attentionDecode(
            Stream stream, AttentionShape shape, Tensor qkv, Tensor position, Tensor keys, Tensor values, Tensor out) {
        throw new UnsupportedOperationException("attentionDecode");
    }

    @Override
    public void swiglu(Stream stream, Tensor gateUp, Tensor out) {
        throw new UnsupportedOperationException("swiglu");
    }

    @Override
    public void swigluBackward(Stream stream, Tensor gradOut, Tensor gateUp, Tensor gradGateUp, @Nullable Tensor out) {
        throw new UnsupportedOperationException("swigluBackward");
    }

    @Override
    public void crossEntropy(
            Stream stream,
            Tensor logits,
            Tensor labels,
            Tensor scale,
            Tensor loss,
            boolean gradient,
            boolean accumulate) {
        throw new UnsupportedOperationException("crossEntropy");
    }

    @Override
    public void sumSquares(Stream stream, Tensor x, Tensor out, boolean accumulate) {
        throw new UnsupportedOperationException("sumSquares");
    }

    @Override
    public void clipFactor(Stream stream, Tensor sumSquares, Tensor loss, Tensor unscale, float maxNorm, Tensor out) {
        throw new UnsupportedOperationException("clipFactor");
    }

    @Override
    public void adamw(
            Stream stream,
            Tensor master,
            Tensor moment1,
            Tensor moment2,
            Tensor gradient,
            Tensor weight,
            Tensor clip,
            Tensor scalars,
            long decayed,
            float beta1,
            float beta2,
            float epsilon,
            float weightDecay,
            long first) {
        throw new UnsupportedOperationException("adamw");
    }

    @Override
    public void zero(Stream stream, Tensor out) {
        throw new UnsupportedOperationException("zero");
    }

    @Override
    public void copy(Stream stream, Tensor from, Tensor to) {
        throw new UnsupportedOperationException("copy");
    }

    @Override
    public void add(Stream stream, Tensor x, Tensor into) {
        throw new UnsupportedOperationException("add");
    }
}
