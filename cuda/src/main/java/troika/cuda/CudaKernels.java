package troika.cuda;

import static troika.cuda.Launch.BLOCK;
import static troika.cuda.Launch.VECTOR_BYTES;
import static troika.cuda.Launch.columns;
import static troika.cuda.Launch.flag;
import static troika.cuda.Launch.packElements;
import static troika.cuda.Launch.suffix;
import static troika.cuda.Launch.vectors;
import static troika.cuda.Launch.workspace;

import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.tensor.AttentionShape;
import troika.tensor.KernelArguments;
import troika.tensor.Kernels;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Checks the arguments of a kernel and enqueues it: products through cuBLASLt, attention, losses and the optimizer in
/// their own classes, all else here, as kernels of the resources beside this class.
final class CudaKernels implements Kernels, AutoCloseable {
    private static final int WARP = 32;
    private static final int MOST_THREADS = 1024;

    private final CudaDevice device;
    private final Products products;
    private final Attention attention;
    private final LossKernels losses;
    private final OptimizerKernels optimizer;

    CudaKernels(CudaDevice device) {
        this.device = device;
        products = new Products(device);
        attention = new Attention(device);
        losses = new LossKernels(device);
        optimizer = new OptimizerKernels(device);
    }

    List<String> notes() {
        return attention.notes();
    }

    Map<String, String> algorithms() {
        return products.choices();
    }

    private CudaFunction function(String source, String kernel) {
        return device.function(source, kernel);
    }

    /// The threads of a row of which each has up to `each` packs: whole warps.
    private static int rowThreads(long packs, int each, int most) {
        return (int) Math.min(most, Math.ceilDiv(packs, (long) WARP * each) * WARP);
    }

    private static Long addressOrNull(@Nullable Tensor tensor) {
        return tensor == null ? 0L : tensor.address();
    }

    @Override
    public void embedding(Stream stream, Tensor tokens, Tensor table, long first, Tensor out) {
        KernelArguments.embedding(tokens, table, out);
        if (out.elements() == 0) {
            return;
        }
        long rowBytes = out.columns() * out.dtype().bytes();
        long alignment = rowBytes | table.address() | out.address();
        int unit = alignment % VECTOR_BYTES == 0 ? VECTOR_BYTES : alignment % 4 == 0 ? 4 : 2;
        int units = Math.toIntExact(rowBytes / unit);
        int block = 128;
        int threads = units <= WARP * 4 ? WARP : units <= WARP * 8 ? 2 * WARP : block;
        function("embedding", "embedding_" + unit)
                .launch(
                        (CudaStream) stream,
                        Math.ceilDiv(out.rows(), block / threads),
                        block,
                        0,
                        tokens.address(),
                        table.address(),
                        out.address(),
                        out.rows(),
                        units,
                        threads,
                        first,
                        Math.toIntExact(table.rows()));
    }

    @Override
    public void embeddingBackward(
            Stream stream, Tensor tokens, Tensor gradOut, long first, Tensor gradTable, boolean accumulate) {
        KernelArguments.embeddingBackward(tokens, gradOut, gradTable);
        CudaStream cuda = (CudaStream) stream;
        if (!accumulate) {
            zero(stream, gradTable);
        }
        if (gradOut.elements() == 0 || gradTable.elements() == 0) {
            return;
        }
        int rows = Math.toIntExact(gradOut.rows());
        int tableRows = Math.toIntExact(gradTable.rows());
        long tableBytes = 4L * tableRows;
        long places = workspace(cuda, 2 * tableBytes);
        long counts = places + tableBytes;
        Driver.memsetD8Async(places, (byte) 0, 2 * tableBytes, cuda.handle());
        function("embedding", "count_tokens")
                .launch(
                        cuda,
                        Math.ceilDiv(rows, BLOCK),
                        BLOCK,
                        0,
                        tokens.address(),
                        rows,
                        places,
                        counts,
                        first,
                        tableRows);
        boolean vectors = vectors(gradOut.columns(), gradOut, gradTable);
        long packs = gradOut.columns() / packElements(gradOut.dtype(), vectors);
        // Enough threads to look for tokens, also where rows are short.
        int block = Math.max(128, rowThreads(packs, 1, BLOCK));
        function("embedding", "embedding_backward_" + suffix(gradOut.dtype(), vectors))
                .launch(
                        cuda,
                        rows,
                        Math.ceilDiv(packs, block),
                        1L,
                        block,
                        0,
                        tokens.address(),
                        places,
                        counts,
                        gradOut.address(),
                        gradTable.address(),
                        rows,
                        columns(gradOut),
                        flag(accumulate),
                        first,
                        tableRows);
    }

    @Override
    public void rmsNorm(Stream stream, Tensor x, Tensor weight, float epsilon, Tensor out, Tensor rstd) {
        KernelArguments.rmsNorm(x, weight, out, rstd);
        if (x.elements() == 0) {
            return;
        }
        boolean vectors = vectors(x.columns(), x, weight, out);
        int threads = rowThreads(x.columns() / packElements(x.dtype(), vectors), 8, MOST_THREADS);
        // Several rows a block, of a warp each.
        int block = threads == WARP ? 4 * WARP : threads;
        function("norm", "rms_norm_" + suffix(x.dtype(), vectors))
                .launch(
                        (CudaStream) stream,
                        Math.ceilDiv(x.rows(), block / threads),
                        block,
                        0,
                        x.address(),
                        weight.address(),
                        epsilon,
                        out.address(),
                        rstd.address(),
                        x.rows(),
                        columns(x),
                        threads);
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
        CudaStream cuda = (CudaStream) stream;
        int rows = Math.toIntExact(x.rows());
        int columns = columns(x);
        if (columns == 0) {
            return;
        }
        boolean vectors = vectors(columns, gradOut, x, weight, residual, gradX, out);
        long packs = columns / packElements(x.dtype(), vectors);
        int threads = rowThreads(packs, vectors ? 1 : 4, MOST_THREADS);
        // Longer rows than a block can keep in registers have kernels of their own.
        boolean wide = packs > (long) MOST_THREADS * (vectors ? 1 : 4);
        if (wide) {
            threads = 512;
        }
        int groups = Math.max(1, 512 / threads);
        int block = groups * threads;
        // All blocks run at once, each through its share of the rows.
        int blocks = Math.min(device.multiprocessors() * (block > 512 ? 1 : 2), Math.ceilDiv(rows, groups));
        long partials = workspace(cuda, 4L * blocks * columns);
        if (blocks > 0) {
            function("norm", "rms_norm_backward_" + suffix(x.dtype(), vectors) + (wide ? "_wide" : ""))
                    .launch(
                            cuda,
                            blocks,
                            block,
                            groups > 1 ? 4 * columns : 0,
                            gradOut.address(),
                            x.address(),
                            weight.address(),
                            rstd.address(),
                            addressOrNull(residual),
                            gradX.address(),
                            partials,
                            addressOrNull(out),
                            rows,
                            columns,
                            threads);
        }
        function("norm", "sum_partials")
                .launch(
                        cuda,
                        Math.ceilDiv(columns, WARP),
                        MOST_THREADS,
                        0,
                        partials,
                        blocks,
                        columns,
                        gradWeight.address(),
                        flag(accumulate));
    }

    @Override
    public void linear(Stream stream, Tensor x, Tensor weight, @Nullable Tensor residual, Tensor out) {
        KernelArguments.linear(x, weight, residual, out);
        products.linear((CudaStream) stream, x, weight, residual, out);
    }

    @Override
    public void linearBackwardInput(Stream stream, Tensor gradOut, Tensor weight, Tensor gradX) {
        KernelArguments.linearBackwardInput(gradOut, weight, gradX);
        products.linearBackwardInput((CudaStream) stream, gradOut, weight, gradX);
    }

    @Override
    public void linearBackwardWeight(Stream stream, Tensor gradOut, Tensor x, Tensor gradWeight, boolean accumulate) {
        KernelArguments.linearBackwardWeight(gradOut, x, gradWeight);
        products.linearBackwardWeight((CudaStream) stream, gradOut, x, gradWeight, accumulate);
    }

    @Override
    public void rope(
            Stream stream, Tensor x, Tensor positions, Tensor table, int heads, int headSize, boolean inverse) {
        KernelArguments.rope(x, positions, table, heads, headSize);
        int half = headSize / 2;
        if (x.rows() == 0 || heads == 0 || half == 0) {
            return;
        }
        boolean vectors = vectors(half, x, table) && vectors(x.columns(), x);
        // A thread has a pack of pairs of four heads.
        long threads = x.rows() * (half / packElements(x.dtype(), vectors)) * Math.ceilDiv(heads, 4);
        function("elementwise", "rope_" + suffix(x.dtype(), vectors))
                .launch(
                        (CudaStream) stream,
                        Math.ceilDiv(threads, BLOCK),
                        BLOCK,
                        0,
                        x.address(),
                        positions.address(),
                        table.address(),
                        x.rows(),
                        columns(x),
                        heads,
                        half,
                        inverse ? -1f : 1f);
    }

    @Override
    public void attention(
            Stream stream, AttentionShape shape, Tensor qkv, Tensor positions, Tensor out, Tensor logSumExp) {
        KernelArguments.attention(shape, qkv, positions, out, logSumExp);
        attention.attention((CudaStream) stream, shape, qkv, positions, out, logSumExp);
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
        attention.attentionBackward((CudaStream) stream, shape, gradOut, qkv, positions, out, logSumExp, gradQkv);
    }

    @Override
    public void attentionDecode(
            Stream stream, AttentionShape shape, Tensor qkv, Tensor position, Tensor keys, Tensor values, Tensor out) {
        KernelArguments.attentionDecode(shape, qkv, position, keys, values, out);
        attention.attentionDecode((CudaStream) stream, shape, qkv, position, keys, values, out);
    }

    @Override
    public void swiglu(Stream stream, Tensor gateUp, Tensor out) {
        KernelArguments.swiglu(gateUp, out);
        if (out.elements() == 0) {
            return;
        }
        boolean vectors = vectors(out.columns(), gateUp, out);
        function("elementwise", "swiglu_" + suffix(out.dtype(), vectors))
                .launch(
                        (CudaStream) stream,
                        twoPacksAThread(out, vectors),
                        BLOCK,
                        0,
                        gateUp.address(),
                        out.address(),
                        out.rows(),
                        columns(out));
    }

    private static long twoPacksAThread(Tensor tensor, boolean vectors) {
        return Math.ceilDiv(tensor.elements() / packElements(tensor.dtype(), vectors), 2 * BLOCK);
    }

    @Override
    public void swigluBackward(Stream stream, Tensor gradOut, Tensor gateUp, Tensor gradGateUp, @Nullable Tensor out) {
        KernelArguments.swigluBackward(gradOut, gateUp, gradGateUp, out);
        if (gradOut.elements() == 0) {
            return;
        }
        boolean vectors = vectors(gradOut.columns(), gradOut, gateUp, gradGateUp, out);
        function("elementwise", "swiglu_backward_" + suffix(gradOut.dtype(), vectors))
                .launch(
                        (CudaStream) stream,
                        twoPacksAThread(gradOut, vectors),
                        BLOCK,
                        0,
                        gradOut.address(),
                        gateUp.address(),
                        gradGateUp.address(),
                        addressOrNull(out),
                        gradOut.rows(),
                        columns(gradOut));
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
        losses.crossEntropy((CudaStream) stream, logits, labels, scale, loss, gradient, accumulate);
    }

    @Override
    public void crossEntropyPart(Stream stream, Tensor logits, Tensor labels, long first, Tensor part) {
        KernelArguments.crossEntropyPart(logits, labels, part);
        losses.part((CudaStream) stream, logits, labels, first, part);
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
        losses.whole((CudaStream) stream, logits, labels, parts, scale, first, loss, gradient, accumulate);
    }

    @Override
    public void sumSquares(Stream stream, Tensor x, Tensor out, boolean accumulate) {
        KernelArguments.sumSquares(x, out);
        optimizer.sumSquares((CudaStream) stream, x, out, accumulate);
    }

    @Override
    public void clipFactor(Stream stream, Tensor sumSquares, Tensor loss, Tensor unscale, float maxNorm, Tensor out) {
        KernelArguments.clipFactor(sumSquares, loss, unscale, out);
        optimizer.clipFactor((CudaStream) stream, sumSquares, loss, unscale, maxNorm, out);
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
        optimizer.adamw(
                (CudaStream) stream,
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
                first);
    }

    @Override
    public void zero(Stream stream, Tensor out) {
        if (out.bytes() > 0) {
            Driver.memsetD8Async(out.address(), (byte) 0, out.bytes(), ((CudaStream) stream).handle());
        }
    }

    @Override
    public void copy(Stream stream, Tensor from, Tensor to) {
        KernelArguments.copy(from, to);
        if (to.bytes() > 0) {
            Driver.memcpyAsync(to.address(), from.address(), to.bytes(), ((CudaStream) stream).handle());
        }
    }

    @Override
    public void cast(Stream stream, Tensor from, Tensor to) {
        KernelArguments.cast(from, to);
        if (from.dtype() == to.dtype()) {
            copy(stream, from, to);
            return;
        }
        if (to.elements() == 0) {
            return;
        }
        boolean vectors = vectors(0, from, to);
        function("elementwise", "cast_" + suffix(from.dtype()) + "_" + suffix(to.dtype(), vectors))
                .launch(
                        (CudaStream) stream,
                        Math.ceilDiv(to.elements(), (vectors ? 16L : 2L) * BLOCK),
                        BLOCK,
                        0,
                        from.address(),
                        to.address(),
                        to.elements());
    }

    @Override
    public void add(Stream stream, Tensor x, Tensor into) {
        KernelArguments.add(x, into);
        if (x.elements() == 0) {
            return;
        }
        boolean vectors = vectors(0, x, into);
        function("elementwise", "add_" + suffix(into.dtype(), vectors))
                .launch(
                        (CudaStream) stream,
                        Math.ceilDiv(x.elements(), 4L * packElements(into.dtype(), vectors) * BLOCK),
                        BLOCK,
                        0,
                        x.address(),
                        into.address(),
                        x.elements());
    }

    @Override
    public void close() {
        attention.close();
        products.close();
    }
}
