package troika.cuda;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/// One kernel, loaded on a card.
final class CudaFunction {
    private final CudaDevice device;
    private final String name;
    private final long handle;
    /// What a block may have of dynamic shared memory without asking for more.
    private int sharedBytes;

    CudaFunction(CudaDevice device, String name, long handle) {
        this.device = device;
        this.name = name;
        this.handle = handle;
        sharedBytes = Driver.functionGet(handle, Driver.DYNAMIC_SHARED_BYTES);
    }

    /// Enqueues on the stream, with a block of one dimension. A failure throws [CudaException] with all
    /// that was launched.
    ///
    /// @param sharedBytes dynamic shared memory of a block
    /// @param arguments in the order of the kernel's parameters: Long for pointers and 64 bits, Integer for
    /// int, Float for float
    void launch(
            CudaStream stream, long gridX, long gridY, long gridZ, int blockX, int sharedBytes, Object... arguments) {
        device.bind();
        raiseSharedBytes(sharedBytes);
        MemorySegment parameters = stream.parameters(arguments.length);
        long values = 8L * arguments.length;
        for (int i = 0; i < arguments.length; i++) {
            long at = values + 8L * i;
            parameters.set(ValueLayout.JAVA_LONG, 8L * i, parameters.address() + at);
            switch (arguments[i]) {
                case Long value -> parameters.set(ValueLayout.JAVA_LONG, at, value);
                case Integer value -> parameters.set(ValueLayout.JAVA_INT, at, value);
                case Float value -> parameters.set(ValueLayout.JAVA_FLOAT, at, value);
                default ->
                    throw new IllegalArgumentException("argument " + i + " of kernel " + name + " is a "
                            + arguments[i].getClass().getName());
            }
        }
        int status = gridX > Integer.MAX_VALUE || gridY > Integer.MAX_VALUE || gridZ > Integer.MAX_VALUE
                ? CudaException.INVALID_VALUE
                : Driver.launchKernel(
                        handle,
                        (int) gridX,
                        (int) gridY,
                        (int) gridZ,
                        blockX,
                        sharedBytes,
                        stream.handle(),
                        parameters.address());
        if (status != 0) {
            throw new CudaException(
                    "cuLaunchKernel returned " + Driver.describe(status) + " for kernel " + name + ", grid " + gridX
                            + " x " + gridY + " x " + gridZ + ", block " + blockX + ", shared memory " + sharedBytes
                            + " bytes, arguments " + Arrays.toString(arguments) + " on stream " + stream.name(),
                    status);
        }
    }

    /// As above with a grid of one dimension. Where a grid of three is given in literals, write them as
    /// longs.
    void launch(CudaStream stream, long grid, int block, int sharedBytes, Object... arguments) {
        launch(stream, grid, 1L, 1L, block, sharedBytes, arguments);
    }

    /// How many blocks fit on a multiprocessor at a time.
    int maxActiveBlocksPerMultiprocessor(int block, int sharedBytes) {
        device.bind();
        raiseSharedBytes(sharedBytes);
        return Driver.occupancy(handle, block, sharedBytes);
    }

    private synchronized void raiseSharedBytes(int needed) {
        if (needed > sharedBytes) {
            if (needed > device.sharedMemoryPerBlock()) {
                throw new IllegalArgumentException("kernel " + name + " wants " + needed + " bytes of shared memory of "
                        + device.sharedMemoryPerBlock() + " that " + device.name() + " has for a block");
            }
            Driver.functionSet(handle, Driver.DYNAMIC_SHARED_BYTES, needed);
            sharedBytes = needed;
        }
    }
}
