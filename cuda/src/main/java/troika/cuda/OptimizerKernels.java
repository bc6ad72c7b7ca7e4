package troika.cuda;

import static troika.cuda.Launch.BLOCK;
import static troika.cuda.Launch.flag;
import static troika.cuda.Launch.suffix;
import static troika.cuda.Launch.vectors;
import static troika.cuda.Launch.workspace;

import troika.tensor.DType;
import troika.tensor.Tensor;

/// See the optimizer's methods of [troika.tensor.Kernels]. Arguments are checked before.
final class OptimizerKernels {
    private final CudaDevice device;

    OptimizerKernels(CudaDevice device) {
        this.device = device;
    }

    private CudaFunction function(String kernel) {
        return device.function("optimizer", kernel);
    }

    void sumSquares(CudaStream stream, Tensor x, Tensor out, boolean accumulate) {
        int block = 512;
        int blocks = Math.toIntExact(Math.min(2L * device.multiprocessors(), Math.ceilDiv(x.elements(), 16L * block)));
        long partials = workspace(stream, 8L * blocks);
        if (blocks > 0) {
            function("sum_squares_" + suffix(DType.F32, vectors(0, x)))
                    .launch(stream, blocks, block, 0, x.address(), x.elements(), partials);
        }
        function("sum_doubles").launch(stream, 1, block, 0, partials, blocks, out.address(), flag(accumulate));
    }

    void clipFactor(CudaStream stream, Tensor sumSquares, Tensor loss, Tensor unscale, float maxNorm, Tensor out) {
        function("clip_factor")
                .launch(
                        stream,
                        1,
                        1,
                        0,
                        sumSquares.address(),
                        loss.address(),
                        unscale.address(),
                        maxNorm,
                        out.address());
    }

    void adamw(
            CudaStream stream,
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
        long n = master.elements();
        if (n == 0) {
            return;
        }
        // Packs are of four elements, so that those of 16 bits need less; their alignment is not told apart.
        boolean vectors = vectors(0, master, moment1, moment2, gradient, weight);
        boolean isMaster = weight.address() == master.address();
        long each = vectors ? 8 : 4;
        function("adamw_" + suffix(moment1.dtype()) + "_" + suffix(weight.dtype(), vectors))
                .launch(
                        stream,
                        Math.ceilDiv(n, each * BLOCK),
                        BLOCK,
                        0,
                        master.address(),
                        moment1.address(),
                        moment2.address(),
                        gradient.address(),
                        isMaster ? 0L : weight.address(),
                        clip.address(),
                        scalars.address(),
                        n,
                        decayed,
                        beta1,
                        1 - beta1,
                        beta2,
                        1 - beta2,
                        epsilon,
                        weightDecay,
                        first);
    }
}
