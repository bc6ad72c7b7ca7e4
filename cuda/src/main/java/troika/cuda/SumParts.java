package troika.cuda;

import java.util.Arrays;
import java.util.EnumMap;
import java.util.Locale;
import java.util.Map;
import troika.tensor.DType;

/// The kernels of `collective.cu`: sums of up to 16 vectors in their order, in fp32, rounded once.
final class SumParts {
    /// The most vectors of a sum.
    static final int MOST = 16;

    private static final String SOURCE = "collective";
    private static final int BLOCK = 256;
    private static final int PACK_BYTES = 16;

    private final Map<DType, CudaFunction> functions = new EnumMap<>(DType.class);
    private final int mostBlocks;

    /// Compiles and loads the kernels, so that no collective has to.
    SumParts(CudaDevice device) {
        mostBlocks = device.multiprocessors() * 8;
        for (DType dtype : DType.values()) {
            if (dtype.isFloating()) {
                functions.put(
                        dtype,
                        device.function(SOURCE, "sum_parts_" + dtype.name().toLowerCase(Locale.ROOT)));
            }
        }
    }

    /// The arguments of a sum; reused from call to call.
    static Object[] arguments() {
        Object[] arguments = new Object[MOST + 3];
        Arrays.fill(arguments, 0L);
        return arguments;
    }

    /// Enqueues out = the sum of `parts` vectors of n elements, whose addresses are the first of the
    /// arguments. `out` may be one of them.
    void enqueue(CudaStream stream, DType dtype, Object[] arguments, int parts, long out, long n) {
        if (n == 0) {
            return;
        }
        arguments[MOST] = out;
        arguments[MOST + 1] = parts;
        arguments[MOST + 2] = n;
        long blocks = Math.ceilDiv(n * dtype.bytes(), (long) BLOCK * PACK_BYTES);
        CudaFunction function = functions.get(dtype);
        if (function == null) {
            throw new IllegalArgumentException("there is no sum of " + dtype);
        }
        function.launch(stream, Math.min(blocks, mostBlocks), BLOCK, 0, arguments);
    }
}
