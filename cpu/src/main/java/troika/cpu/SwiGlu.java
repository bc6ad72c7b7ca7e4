package troika.cpu;

import static troika.cpu.Vectors.LANES;

import jdk.incubator.vector.FloatVector;
import org.jspecify.annotations.Nullable;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#swiglu].
final class SwiGlu {
    private static final int BLOCK = 512;
    // In one loop with everything else, sigmoids are more operations than the compiler takes without boxing vectors.
    private static final ThreadLocal<float[]> SIGMOIDS = ThreadLocal.withInitial(() -> new float[BLOCK + LANES]);

    private SwiGlu() {}

    static Runnable forward(Workers workers, Tensor gateUp, Tensor out) {
        boolean bf16 = Tasks.isBf16(out);
        long gateUpAddress = gateUp.address();
        long outAddress = out.address();
        int columns = Math.toIntExact(out.columns());
        long bytes = (long) columns * out.dtype().bytes();
        return Tasks.overRows(workers, out, (from, to) -> {
            for (int t = from; t < to; t++) {
                long gate = gateUpAddress + 2L * t * bytes;
                forwardRow(bf16, gate, gate + bytes, outAddress + t * bytes, columns);
            }
        });
    }

    private static void forwardRow(boolean bf16, long gate, long up, long out, int n) {
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                forwardLanes(true, gate, up, out, i, LANES);
            }
            if (i < n) {
                forwardLanes(true, gate, up, out, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                forwardLanes(false, gate, up, out, i, LANES);
            }
            if (i < n) {
                forwardLanes(false, gate, up, out, i, n - i);
            }
        }
    }

    private static void forwardLanes(boolean bf16, long gate, long up, long out, int i, int count) {
        FloatVector g = Vectors.load(bf16, gate, i, count);
        FloatVector silu = g.mul(Vectors.sigmoid(g));
        Vectors.storeResult(bf16, out, i, count, silu.mul(Vectors.load(bf16, up, i, count)));
    }

    static Runnable backward(Workers workers, Tensor gradOut, Tensor gateUp, Tensor gradGateUp, @Nullable Tensor out) {
        boolean bf16 = Tasks.isBf16(gradOut);
        long gradOutAddress = gradOut.address();
        long gateUpAddress = gateUp.address();
        long gradGateUpAddress = gradGateUp.address();
        boolean again = out != null;
        long outAddress = out != null ? out.address() : 0;
        int columns = Math.toIntExact(gradOut.columns());
        long bytes = (long) columns * gradOut.dtype().bytes();
        return Tasks.overRows(workers, gradOut, (from, to) -> {
            float[] sigmoids = SIGMOIDS.get();
            for (int t = from; t < to; t++) {
                long gate = gateUpAddress + 2L * t * bytes;
                long gradGate = gradGateUpAddress + 2L * t * bytes;
                long gradRow = gradOutAddress + t * bytes;
                // First, since the gradient may overwrite what it is made of.
                if (again) {
                    forwardRow(bf16, gate, gate + bytes, outAddress + t * bytes, columns);
                }
                for (int block = 0; block < columns; block += BLOCK) {
                    int end = Math.min(columns, block + BLOCK);
                    sigmoidsRow(bf16, gate, block, end, sigmoids);
                    backwardRow(bf16, gradRow, gate, gate + bytes, gradGate, gradGate + bytes, block, end, sigmoids);
                }
            }
        });
    }

    private static void sigmoidsRow(boolean bf16, long gate, int from, int to, float[] sigmoids) {
        int i = from;
        if (bf16) {
            for (; i <= to - LANES; i += LANES) {
                Vectors.sigmoid(Vectors.load(true, gate, i, LANES)).intoArray(sigmoids, i - from);
            }
            if (i < to) {
                Vectors.sigmoid(Vectors.load(true, gate, i, to - i)).intoArray(sigmoids, i - from);
            }
        } else {
            for (; i <= to - LANES; i += LANES) {
                Vectors.sigmoid(Vectors.load(false, gate, i, LANES)).intoArray(sigmoids, i - from);
            }
            if (i < to) {
                Vectors.sigmoid(Vectors.load(false, gate, i, to - i)).intoArray(sigmoids, i - from);
            }
        }
    }

    private static void backwardRow(
            boolean bf16,
            long gradOut,
            long gate,
            long up,
            long gradGate,
            long gradUp,
            int from,
            int to,
            float[] sigmoids) {
        int i = from;
        if (bf16) {
            for (; i <= to - LANES; i += LANES) {
                backwardLanes(true, gradOut, gate, up, gradGate, gradUp, i, LANES, sigmoids, i - from);
            }
            if (i < to) {
                backwardLanes(true, gradOut, gate, up, gradGate, gradUp, i, to - i, sigmoids, i - from);
            }
        } else {
            for (; i <= to - LANES; i += LANES) {
                backwardLanes(false, gradOut, gate, up, gradGate, gradUp, i, LANES, sigmoids, i - from);
            }
            if (i < to) {
                backwardLanes(false, gradOut, gate, up, gradGate, gradUp, i, to - i, sigmoids, i - from);
            }
        }
    }

    private static void backwardLanes(
            boolean bf16,
            long gradOut,
            long gate,
            long up,
            long gradGate,
            long gradUp,
            int i,
            int count,
            float[] sigmoids,
            int at) {
        FloatVector grad = Vectors.load(bf16, gradOut, i, count);
        FloatVector g = Vectors.load(bf16, gate, i, count);
        FloatVector u = Vectors.load(bf16, up, i, count);
        FloatVector sigmoid = FloatVector.fromArray(Vectors.F, sigmoids, at);
        FloatVector silu = g.mul(sigmoid);
        // d silu / dg = sigmoid · (1 + g − silu)
        FloatVector slope = sigmoid.fma(g.sub(silu), sigmoid);
        Vectors.storeResult(bf16, gradGate, i, count, grad.mul(u).mul(slope));
        Vectors.storeResult(bf16, gradUp, i, count, grad.mul(silu));
    }
}
