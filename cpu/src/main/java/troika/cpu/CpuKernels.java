package troika.cpu;

import org.jspecify.annotations.Nullable;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.KernelArguments;
import troika.tensor.Kernels;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Checks the arguments of a kernel, prepares its run and puts that on the stream.
final class CpuKernels implements Kernels {
    private static Workers workers(Stream stream) {
        return ((CpuStream) stream).workers();
    }

    private static Tensor workspace(Stream stream) {
        return ((CpuStream) stream).workspace();
    }

    private static boolean isHalf(Tensor tensor) {
        return tensor.dtype() == DType.F16;
    }

    @Override
    public void embedding(Stream stream, Tensor tokens, Tensor table, long first, Tensor out) {
        KernelArguments.embedding(tokens, table, out);
        stream.enqueue(Embedding.forward(workers(stream), tokens, table, first, out));
    }

    @Override
    public void embeddingBackward(
            Stream stream, Tensor tokens, Tensor gradOut, long first, Tensor gradTable, boolean accumulate) {
        KernelArguments.embeddingBackward(tokens, gradOut, gradTable);
        stream.enqueue(
                isHalf(gradOut)
                        ? HalfRows.embeddingBackward((CpuStream) stream, tokens, gradOut, first, gradTable, accumulate)
                        : Embedding.backward(workers(stream), tokens, gradOut, first, gradTable, accumulate));
    }

    @Override
    public void rmsNorm(Stream stream, Tensor x, Tensor weight, float epsilon, Tensor out, Tensor rstd) {
        KernelArguments.rmsNorm(x, weight, out, rstd);
        stream.enqueue(
                isHalf(x)
                        ? HalfRows.rmsNorm((CpuStream) stream, x, weight, epsilon, out, rstd)
                        : RmsNorm.forward(workers(stream), x, weight, epsilon, out, rstd));
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
        KernelArguments.rmsNormBackward(gradOut, x, weight, rstd, residual, gradX, gradWeight, out);
        stream.enqueue(
                isHalf(x)
                        ? HalfRows.rmsNormBackward(
                                (CpuStream) stream,
                                gradOut,
                                x,
                                weight,
                                rstd,
                                residual,
                                gradX,
                                gradWeight,
                                out,
                                accumulate)
                        : RmsNorm.backward(
                                workers(stream),
                                gradOut,
                                x,
                                weight,
                                rstd,
                                residual,
                                gradX,
                                gradWeight,
                                out,
                                accumulate,
                                workspace(stream)));
    }

    @Override
    public void linear(Stream stream, Tensor x, Tensor weight, @Nullable Tensor residual, Tensor out) {
        KernelArguments.linear(x, weight, residual, out);
        stream.enqueue(Linear.forward((CpuStream) stream, x, weight, residual, out));
    }

    @Override
    public void linearBackwardInput(Stream stream, Tensor gradOut, Tensor weight, Tensor gradX) {
        KernelArguments.linearBackwardInput(gradOut, weight, gradX);
        stream.enqueue(Linear.backwardInput((CpuStream) stream, gradOut, weight, gradX));
    }

    @Override
    public void linearBackwardWeight(Stream stream, Tensor gradOut, Tensor x, Tensor gradWeight, boolean accumulate) {
        KernelArguments.linearBackwardWeight(gradOut, x, gradWeight);
        stream.enqueue(Linear.backwardWeight((CpuStream) stream, gradOut, x, gradWeight, accumulate));
    }

    @Override
    public void rope(
            Stream stream, Tensor x, Tensor positions, Tensor table, int heads, int headSize, boolean inverse) {
        KernelArguments.rope(x, positions, table, heads, headSize);
        stream.enqueue(
                isHalf(x)
                        ? HalfRows.rope((CpuStream) stream, x, positions, table, heads, headSize, inverse)
                        : Rope.rotate(workers(stream), x, positions, table, heads, headSize, inverse));
    }

    @Override
    public void attention(
            Stream stream, AttentionShape shape, Tensor qkv, Tensor positions, Tensor out, Tensor logSumExp) {
        KernelArguments.attention(shape, qkv, positions, out, logSumExp);
        stream.enqueue(Attention.forward((CpuStream) stream, shape, qkv, positions, out, logSumExp));
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
        KernelArguments.attentionBackward(shape, gradOut, qkv, positions, out, logSumExp, gradQkv);
        stream.enqueue(Attention.backward((CpuStream) stream, shape, gradOut, qkv, positions, out, logSumExp, gradQkv));
    }

    @Override
    public void attentionDecode(
            Stream stream, AttentionShape shape, Tensor qkv, Tensor position, Tensor keys, Tensor values, Tensor out) {
        KernelArguments.attentionDecode(shape, qkv, position, keys, values, out);
        stream.enqueue(AttentionDecode.run((CpuStream) stream, shape, qkv, position, keys, values, out));
    }

    @Override
    public void swiglu(Stream stream, Tensor gateUp, Tensor out) {
        KernelArguments.swiglu(gateUp, out);
        stream.enqueue(
                isHalf(out)
                        ? HalfRows.swiglu((CpuStream) stream, gateUp, out)
                        : SwiGlu.forward(workers(stream), gateUp, out));
    }

    @Override
    public void swigluBackward(Stream stream, Tensor gradOut, Tensor gateUp, Tensor gradGateUp, @Nullable Tensor out) {
        KernelArguments.swigluBackward(gradOut, gateUp, gradGateUp, out);
        stream.enqueue(
                isHalf(gradOut)
                        ? HalfRows.swigluBackward((CpuStream) stream, gradOut, gateUp, gradGateUp, out)
                        : SwiGlu.backward(workers(stream), gradOut, gateUp, gradGateUp, out));
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
        KernelArguments.crossEntropy(logits, labels, scale, loss);
        stream.enqueue(
                isHalf(logits)
                        ? HalfRows.crossEntropy((CpuStream) stream, logits, labels, scale, loss, gradient, accumulate)
                        : CrossEntropy.run(
                                workers(stream), logits, labels, scale, loss, gradient, accumulate, workspace(stream)));
    }

    @Override
    public void crossEntropyPart(Stream stream, Tensor logits, Tensor labels, long first, Tensor part) {
        KernelArguments.crossEntropyPart(logits, labels, part);
        stream.enqueue(
                isHalf(logits)
                        ? HalfRows.crossEntropyPart((CpuStream) stream, logits, labels, first, part)
                        : CrossEntropyParts.part(workers(stream), logits, labels, first, part));
    }

    @Override
    public void crossEntropyWhole(
            Stream stream,
            Tensor logits,
            Tensor labels,
            Tensor parts,
            Tensor scale,
            long first,
            Tensor loss,
            boolean gradient,
            boolean accumulate) {
        KernelArguments.crossEntropyWhole(logits, labels, parts, scale, loss);
        stream.enqueue(
                isHalf(logits)
                        ? HalfRows.crossEntropyWhole(
                                (CpuStream) stream, logits, labels, parts, scale, first, loss, gradient, accumulate)
                        : CrossEntropyParts.whole(
                                workers(stream),
                                logits,
                                labels,
                                parts,
                                0,
                                scale,
                                first,
                                loss,
                                gradient,
                                accumulate,
                                workspace(stream)));
    }

    @Override
    public void sumSquares(Stream stream, Tensor x, Tensor out, boolean accumulate) {
        KernelArguments.sumSquares(x, out);
        stream.enqueue(Optimizer.sumSquares(workers(stream), x, out, accumulate, workspace(stream)));
    }

    @Override
    public void clipFactor(Stream stream, Tensor sumSquares, Tensor loss, Tensor unscale, float maxNorm, Tensor out) {
        KernelArguments.clipFactor(sumSquares, loss, unscale, out);
        stream.enqueue(Optimizer.clipFactor(sumSquares, loss, unscale, maxNorm, out));
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
        KernelArguments.adamw(master, moment1, moment2, gradient, weight, clip, scalars, decayed);
        stream.enqueue(Optimizer.adamw(
                workers(stream),
                master,
                moment1,
                moment2,
                gradient,
                weight,
                clip,
                scalars,
                decayed,
                beta1,
                beta2,
                epsilon,
                weightDecay,
                first));
    }

    @Override
    public void zero(Stream stream, Tensor out) {
        stream.enqueue(MemoryOps.zero(workers(stream), out));
    }

    @Override
    public void copy(Stream stream, Tensor from, Tensor to) {
        KernelArguments.copy(from, to);
        stream.enqueue(MemoryOps.copy(workers(stream), from, to));
    }

    @Override
    public void cast(Stream stream, Tensor from, Tensor to) {
        KernelArguments.cast(from, to);
        stream.enqueue(Cast.run(workers(stream), from, to));
    }

    @Override
    public void add(Stream stream, Tensor x, Tensor into) {
        KernelArguments.add(x, into);
        stream.enqueue(MemoryOps.add(workers(stream), x, into));
    }
}
