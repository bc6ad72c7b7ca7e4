package troika.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import java.util.SplittableRandom;
import troika.cuda.AttentionKernels.Wanted;
import troika.cuda.CudnnAttention.Prepared;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;
import troika.tensor.UserException;

/// Compares a cuDNN that is newer than those tried with this module's own attention, on small random cases.
final class CudnnCheck {
    /// Of the difference, in the L2 norm: ten times what rounding makes of BF16.
    private static final double TOLERANCE = 2e-2;

    private static final int SEQUENCE = 160;
    // Of one sequence, no more than cuDNN's lists have slots for.
    private static final int[] DOCUMENTS = {37, 1, 122};
    private static final long ARENA_BYTES = 8L << 20;
    private static final long WORKSPACE_BYTES = 24L << 20;
    private static final String AGREES = "agrees";

    private final CudaDevice device;
    private final CudaStream stream;
    private final Memory arena;
    private final SplittableRandom random = new SplittableRandom(1);
    private long used;

    private CudnnCheck(CudaDevice device, CudaStream stream, Memory arena) {
        this.device = device;
        this.stream = stream;
        this.arena = arena;
    }

    /// Why this cuDNN is not to be used, or empty.
    static String refusal(CudaDevice device, long version, AttentionKernels own, CudnnAttention cudnn) {
        String key =
                "check of cuDNN " + version + " on " + device.identity() + ", deterministic " + device.deterministic();
        byte[] kept = device.cache().get(key);
        String result = kept != null ? new String(kept, StandardCharsets.UTF_8) : compare(device, own, cudnn);
        if (kept == null) {
            device.cache().put(key, result.getBytes(StandardCharsets.UTF_8));
        }
        return result.equals(AGREES) ? "" : "cuDNN " + version + ", newer than those tried, " + result;
    }

    private static String compare(CudaDevice device, AttentionKernels own, CudnnAttention cudnn) {
        Memory memory;
        try {
            memory = device.allocate("check of cuDNN", ARENA_BYTES + WORKSPACE_BYTES);
        } catch (UserException e) {
            return "could not be compared with Troika's own for lack of memory";
        }
        CudaStream stream = new CudaStream(
                device, "check of cuDNN", memory.tensor(ARENA_BYTES, DType.F32, Shape.of(WORKSPACE_BYTES / 4)));
        try {
            CudnnCheck check = new CudnnCheck(device, stream, memory);
            double error = 0;
            for (boolean packed : new boolean[] {false, true}) {
                check.used = 0;
                error = Math.max(error, check.error(new AttentionShape(2, SEQUENCE, 4, 4, 64, packed), own, cudnn));
            }
            return error <= TOLERANCE ? AGREES : String.format(Locale.ROOT, "differs from Troika's own by %.1e", error);
        } catch (CudaException e) {
            return "failed: " + e.getMessage();
        } finally {
            cudnn.forget(stream);
            stream.close();
            device.free(memory);
        }
    }

    private double error(AttentionShape shape, AttentionKernels own, CudnnAttention cudnn) {
        long rows = (long) shape.batch() * shape.sequence();
        long columns = (long) shape.heads() * shape.headSize();
        Tensor qkv = normal(rows, shape.qkvColumns());
        Tensor gradOut = normal(rows, columns);
        Tensor positions = positions(rows);
        Tensor[] out = {tensor(DType.BF16, rows, columns), tensor(DType.BF16, rows, columns)};
        Tensor[] gradQkv = {tensor(DType.BF16, rows, shape.qkvColumns()), tensor(DType.BF16, rows, shape.qkvColumns())};
        long sums = (long) shape.heads() * rows;
        Tensor[] logSumExp = {tensor(DType.F32, 1, sums), tensor(DType.F32, 1, sums)};
        own.forward(stream, shape, qkv, positions, out[0], logSumExp[0], Wanted.ALL);
        own.backward(
                stream,
                shape,
                gradOut,
                qkv,
                positions,
                out[0],
                logSumExp[0],
                gradQkv[0],
                Wanted.ALL,
                stream.workspace());
        Prepared forward = cudnn.prepare(stream, DType.BF16, shape, false);
        Prepared backward = cudnn.prepare(stream, DType.BF16, shape, true);
        AttentionSlices forwardSlices = forward.slices();
        AttentionSlices backwardSlices = backward.slices();
        double error = 0;
        // What it has no engine for is not used anyhow.
        if (forwardSlices != null) {
            cudnn.forward(stream, shape, forwardSlices, qkv, positions, out[1], logSumExp[1]);
            stream.synchronize();
            error = Math.max(difference(out), difference(logSumExp));
        }
        if (backwardSlices != null) {
            cudnn.backward(stream, shape, backwardSlices, gradOut, qkv, positions, out[0], logSumExp[0], gradQkv[1]);
            stream.synchronize();
            error = Math.max(error, difference(gradQkv));
        }
        stream.synchronize();
        return error;
    }

    private Tensor tensor(DType dtype, long... sizes) {
        Tensor tensor = arena.tensor(used, dtype, Shape.of(sizes));
        used += Math.ceilDiv(tensor.bytes(), 256L) * 256;
        return tensor;
    }

    private Tensor normal(long rows, long columns) {
        Tensor tensor = tensor(DType.BF16, rows, columns);
        try (Arena host = Arena.ofConfined()) {
            MemorySegment bits = host.allocate(tensor.bytes(), 16);
            for (long i = 0; i < tensor.elements(); i++) {
                int x = Float.floatToRawIntBits((float) random.nextGaussian());
                bits.setAtIndex(ValueLayout.JAVA_SHORT, i, (short) (x >>> 16));
            }
            device.write(tensor, bits);
        }
        return tensor;
    }

    private Tensor positions(long rows) {
        Tensor tensor = tensor(DType.I32, rows);
        try (Arena host = Arena.ofConfined()) {
            MemorySegment positions = host.allocate(tensor.bytes(), 16);
            int t = 0;
            while (t < rows) {
                for (int length : DOCUMENTS) {
                    for (int i = 0; i < length; i++) {
                        positions.setAtIndex(ValueLayout.JAVA_INT, t++, i);
                    }
                }
            }
            device.write(tensor, positions);
        }
        return tensor;
    }

    /// The norm of the difference of two tensors by that of the first; infinite where there is a NaN.
    private double difference(Tensor[] pair) {
        double error = 0;
        double norm = 0;
        try (Arena host = Arena.ofConfined()) {
            MemorySegment a = host.allocate(pair[0].bytes(), 16);
            MemorySegment b = host.allocate(pair[1].bytes(), 16);
            device.read(pair[0], a);
            device.read(pair[1], b);
            for (long i = 0; i < pair[0].elements(); i++) {
                double x = value(pair[0].dtype(), a, i);
                double d = x - value(pair[1].dtype(), b, i);
                error += d * d;
                norm += x * x;
            }
        }
        double relative = Math.sqrt(error / norm);
        return Double.isNaN(relative) ? Double.POSITIVE_INFINITY : relative;
    }

    private static double value(DType dtype, MemorySegment segment, long i) {
        return dtype == DType.F32
                ? segment.getAtIndex(ValueLayout.JAVA_FLOAT, i)
                : Float.intBitsToFloat(segment.getAtIndex(ValueLayout.JAVA_SHORT, i) << 16);
    }
}
