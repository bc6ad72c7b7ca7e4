package troika.cuda;

import static troika.cuda.Launch.BLOCK;
import static troika.cuda.Launch.VECTOR_BYTES;
import static troika.cuda.Launch.columns;
import static troika.cuda.Launch.flag;
import static troika.cuda.Launch.suffix;
import static troika.cuda.Launch.workspace;

import troika.tensor.Tensor;

/// See the cross-entropies of [troika.tensor.Kernels]. Arguments are checked before.
final class LossKernels {
    private final CudaDevice device;

    LossKernels(CudaDevice device) {
        this.device = device;
    }

    void crossEntropy(
            CudaStream stream,
            Tensor logits,
            Tensor labels,
            Tensor scale,
            Tensor loss,
            boolean gradient,
            boolean accumulate) {
        int rows = rows(labels);
        long losses = workspace(stream, 4L * rows);
        if (rows > 0) {
            long rowBytes = packs(logits) * VECTOR_BYTES;
            // The kernel has a little shared memory of its own beside the row.
            boolean stored = gradient && rowBytes <= device.sharedMemoryPerBlock() - 1024;
            function("cross_entropy_" + suffix(logits.dtype()))
                    .launch(
                            stream,
                            rows,
                            block(logits),
                            stored ? (int) rowBytes : 0,
                            logits.address(),
                            labels.address(),
                            scale.address(),
                            losses,
                            columns(logits),
                            flag(gradient),
                            flag(stored));
        }
        sumLosses(stream, losses, rows, scale, loss, accumulate);
    }

    void part(CudaStream stream, Tensor logits, Tensor labels, long first, Tensor part) {
        int rows = rows(labels);
        if (rows > 0) {
            function("cross_entropy_part_" + suffix(logits.dtype()))
                    .launch(
                            stream,
                            rows,
                            block(logits),
                            0,
                            logits.address(),
                            labels.address(),
                            part.address(),
                            columns(logits),
                            first);
        }
    }

    void whole(
            CudaStream stream,
            Tensor logits,
            Tensor labels,
            Tensor parts,
            Tensor scale,
            long first,
            Tensor loss,
            boolean gradient,
            boolean accumulate) {
        int rows = rows(labels);
        long losses = workspace(stream, 4L * rows);
        if (rows > 0) {
            function("cross_entropy_whole_" + suffix(logits.dtype()))
                    .launch(
                            stream,
                            rows,
                            block(logits),
                            0,
                            logits.address(),
                            labels.address(),
                            parts.address(),
                            Math.toIntExact(parts.shape().size(0)),
                            scale.address(),
                            losses,
                            columns(logits),
                            first,
                            flag(gradient));
        }
        sumLosses(stream, losses, rows, scale, loss, accumulate);
    }

    private void sumLosses(CudaStream stream, long losses, int rows, Tensor scale, Tensor loss, boolean accumulate) {
        function("sum_losses")
                .launch(stream, 1, 1024, 0, losses, rows, scale.address(), loss.address(), flag(accumulate));
    }

    private CudaFunction function(String kernel) {
        return device.function("loss", kernel);
    }

    private static int rows(Tensor labels) {
        return Math.toIntExact(labels.elements());
    }

    private static long packs(Tensor logits) {
        return logits.columns() * logits.dtype().bytes() / VECTOR_BYTES;
    }

    /// The threads for a row.
    private static int block(Tensor logits) {
        long packs = packs(logits);
        return packs <= 512 ? 128 : packs <= 2048 ? BLOCK : packs <= 6144 ? 512 : 1024;
    }
}
