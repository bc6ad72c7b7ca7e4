package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import troika.ffi.Native;
import troika.ffi.NativeMemory;

/// The driver's API: functions as libcuda exports them, each checked. Handles and device addresses are
/// longs.
///
/// Call [CudaLibraries#driver] first: it says in words where there is no driver.
final class Driver {
    static final int MULTIPROCESSORS = 16;
    static final int CAPABILITY_MAJOR = 75;
    static final int CAPABILITY_MINOR = 76;
    static final int SHARED_MEMORY_PER_BLOCK = 97;

    /// An attribute of functions.
    static final int DYNAMIC_SHARED_BYTES = 8;

    private static final int HOST_PORTABLE = 1;
    private static final int STREAM_NON_BLOCKING = 1;
    /// Lower numbers come first, and streams have 0 unless told otherwise.
    private static final int URGENT = -1;
    private static final int EVENT_DISABLE_TIMING = 2;
    private static final int CAPTURE_RELAXED = 2;

    private static final MethodHandle INIT = handle("cuInit", JAVA_INT);
    private static final MethodHandle ERROR_NAME = handle("cuGetErrorName", JAVA_INT, JAVA_LONG);
    private static final MethodHandle ERROR_STRING = handle("cuGetErrorString", JAVA_INT, JAVA_LONG);
    private static final MethodHandle DEVICE_COUNT = handle("cuDeviceGetCount", JAVA_LONG);
    private static final MethodHandle DEVICE_GET = handle("cuDeviceGet", JAVA_LONG, JAVA_INT);
    private static final MethodHandle DEVICE_NAME = handle("cuDeviceGetName", JAVA_LONG, JAVA_INT, JAVA_INT);
    private static final MethodHandle DEVICE_BUS = handle("cuDeviceGetPCIBusId", JAVA_LONG, JAVA_INT, JAVA_INT);
    private static final MethodHandle DEVICE_ATTRIBUTE = handle("cuDeviceGetAttribute", JAVA_LONG, JAVA_INT, JAVA_INT);
    private static final MethodHandle DEVICE_BYTES = handle("cuDeviceTotalMem_v2", JAVA_LONG, JAVA_INT);
    private static final MethodHandle CONTEXT_RETAIN = handle("cuDevicePrimaryCtxRetain", JAVA_LONG, JAVA_INT);
    private static final MethodHandle CONTEXT_RELEASE = handle("cuDevicePrimaryCtxRelease_v2", JAVA_INT);
    private static final MethodHandle CONTEXT_SET = handle("cuCtxSetCurrent", JAVA_LONG);

    private static final MethodHandle MEMORY_INFO = handle("cuMemGetInfo_v2", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle MEMORY_ALLOCATE = handle("cuMemAlloc_v2", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle MEMORY_FREE = handle("cuMemFree_v2", JAVA_LONG);
    private static final MethodHandle HOST_ALLOCATE = handle("cuMemHostAlloc", JAVA_LONG, JAVA_LONG, JAVA_INT);
    private static final MethodHandle HOST_FREE = handle("cuMemFreeHost", JAVA_LONG);
    private static final MethodHandle COPY = handle("cuMemcpyAsync", JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle SET_D8 = handle("cuMemsetD8Async", JAVA_LONG, JAVA_BYTE, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle SET_D32 = handle("cuMemsetD32Async", JAVA_LONG, JAVA_INT, JAVA_LONG, JAVA_LONG);

    private static final MethodHandle STREAM_CREATE = handle("cuStreamCreate", JAVA_LONG, JAVA_INT);
    private static final MethodHandle STREAM_CREATE_WITH_PRIORITY =
            handle("cuStreamCreateWithPriority", JAVA_LONG, JAVA_INT, JAVA_INT);
    private static final MethodHandle STREAM_DESTROY = handle("cuStreamDestroy_v2", JAVA_LONG);
    private static final MethodHandle STREAM_SYNCHRONIZE = handle("cuStreamSynchronize", JAVA_LONG);
    private static final MethodHandle STREAM_WAIT = handle("cuStreamWaitEvent", JAVA_LONG, JAVA_LONG, JAVA_INT);
    private static final MethodHandle CAPTURE_BEGIN = handle("cuStreamBeginCapture_v2", JAVA_LONG, JAVA_INT);
    private static final MethodHandle CAPTURE_END = handle("cuStreamEndCapture", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle CAPTURING = handle("cuStreamIsCapturing", JAVA_LONG, JAVA_LONG);

    private static final MethodHandle GRAPH_NODES = handle("cuGraphGetNodes", JAVA_LONG, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle GRAPH_INSTANTIATE =
            handle("cuGraphInstantiateWithFlags", JAVA_LONG, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle GRAPH_UPLOAD = handle("cuGraphUpload", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle GRAPH_LAUNCH = handle("cuGraphLaunch", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle GRAPH_EXEC_DESTROY = handle("cuGraphExecDestroy", JAVA_LONG);
    private static final MethodHandle GRAPH_DESTROY = handle("cuGraphDestroy", JAVA_LONG);

    private static final MethodHandle EVENT_CREATE = handle("cuEventCreate", JAVA_LONG, JAVA_INT);
    private static final MethodHandle EVENT_RECORD = handle("cuEventRecord", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle EVENT_SYNCHRONIZE = handle("cuEventSynchronize", JAVA_LONG);
    private static final MethodHandle EVENT_ELAPSED = handle("cuEventElapsedTime", JAVA_LONG, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle EVENT_DESTROY = handle("cuEventDestroy_v2", JAVA_LONG);

    private static final MethodHandle MODULE_LOAD =
            handle("cuModuleLoadDataEx", JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle MODULE_UNLOAD = handle("cuModuleUnload", JAVA_LONG);
    private static final MethodHandle MODULE_FUNCTION = handle("cuModuleGetFunction", JAVA_LONG, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle FUNCTION_SET = handle("cuFuncSetAttribute", JAVA_LONG, JAVA_INT, JAVA_INT);
    private static final MethodHandle FUNCTION_GET = handle("cuFuncGetAttribute", JAVA_LONG, JAVA_INT, JAVA_LONG);
    private static final MethodHandle OCCUPANCY =
            handle("cuOccupancyMaxActiveBlocksPerMultiprocessor", JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_LONG);
    private static final MethodHandle LAUNCH = handle(
            "cuLaunchKernel",
            JAVA_LONG,
            JAVA_INT,
            JAVA_INT,
            JAVA_INT,
            JAVA_INT,
            JAVA_INT,
            JAVA_INT,
            JAVA_INT,
            JAVA_LONG,
            JAVA_LONG,
            JAVA_LONG);

    private Driver() {}

    private static MethodHandle handle(String function, MemoryLayout... arguments) {
        return CudaLibraries.driver().function(function, JAVA_INT, arguments);
    }

    // The driver and its cards.

    static void init() {
        check("cuInit", i(INIT, 0));
    }

    static int deviceCount() {
        return created("cuDeviceGetCount", out -> l(DEVICE_COUNT, out)).get(JAVA_INT, 0);
    }

    static int device(int ordinal) {
        return created("cuDeviceGet", out -> (int) DEVICE_GET.invokeExact(out, ordinal))
                .get(JAVA_INT, 0);
    }

    static String deviceName(int device) {
        return created("cuDeviceGetName", out -> (int) DEVICE_NAME.invokeExact(out, OUT_BYTES, device))
                .getString(0);
    }

    /// Such as "0000:01:00.0".
    static String pciBusId(int device) {
        return created("cuDeviceGetPCIBusId", out -> (int) DEVICE_BUS.invokeExact(out, OUT_BYTES, device))
                .getString(0);
    }

    static int attribute(int attribute, int device) {
        return created("cuDeviceGetAttribute", out -> (int) DEVICE_ATTRIBUTE.invokeExact(out, attribute, device))
                .get(JAVA_INT, 0);
    }

    static long totalMemory(int device) {
        return created("cuDeviceTotalMem_v2", out -> (int) DEVICE_BYTES.invokeExact(out, device))
                .get(JAVA_LONG, 0);
    }

    static long primaryContextRetain(int device) {
        return created("cuDevicePrimaryCtxRetain", out -> (int) CONTEXT_RETAIN.invokeExact(out, device))
                .get(JAVA_LONG, 0);
    }

    static void primaryContextRelease(int device) {
        check("cuDevicePrimaryCtxRelease_v2", i(CONTEXT_RELEASE, device));
    }

    static void setCurrent(long context) {
        check("cuCtxSetCurrent", l(CONTEXT_SET, context));
    }

    // Memory.

    /// Bytes free and in all on the current context's card.
    record MemoryInfo(long free, long total) {}

    static MemoryInfo memoryInfo() {
        MemorySegment out = created("cuMemGetInfo_v2", at -> ll(MEMORY_INFO, at, at + 8));
        return new MemoryInfo(out.get(JAVA_LONG, 0), out.get(JAVA_LONG, 8));
    }

    static long memAlloc(long bytes) {
        return created("cuMemAlloc_v2", out -> ll(MEMORY_ALLOCATE, out, bytes)).get(JAVA_LONG, 0);
    }

    static void memFree(long address) {
        check("cuMemFree_v2", l(MEMORY_FREE, address));
    }

    /// Pinned host memory, for all contexts.
    static long memHostAlloc(long bytes) {
        return created("cuMemHostAlloc", out -> (int) HOST_ALLOCATE.invokeExact(out, bytes, HOST_PORTABLE))
                .get(JAVA_LONG, 0);
    }

    static void memFreeHost(long address) {
        check("cuMemFreeHost", l(HOST_FREE, address));
    }

    /// Copies between any two of device memory and host memory; asynchronous where the host memory is
    /// pinned.
    static void memcpyAsync(long to, long from, long bytes, long stream) {
        check("cuMemcpyAsync", llll(COPY, to, from, bytes, stream));
    }

    static void memsetD8Async(long at, byte value, long bytes, long stream) {
        int status;
        try {
            status = (int) SET_D8.invokeExact(at, value, bytes, stream);
        } catch (Throwable e) {
            throw Native.failed("cuMemsetD8Async", e);
        }
        check("cuMemsetD8Async", status);
    }

    /// @param count of 32-bit values
    static void memsetD32Async(long at, int value, long count, long stream) {
        int status;
        try {
            status = (int) SET_D32.invokeExact(at, value, count, stream);
        } catch (Throwable e) {
            throw Native.failed("cuMemsetD32Async", e);
        }
        check("cuMemsetD32Async", status);
    }

    // Streams.

    /// A stream that does not wait for the default stream.
    static long streamCreate() {
        return created("cuStreamCreate", out -> li(STREAM_CREATE, out, STREAM_NON_BLOCKING))
                .get(JAVA_LONG, 0);
    }

    /// A stream whose kernels get multiprocessors before those of others, as these become free.
    static long streamCreateUrgent() {
        return created(
                        "cuStreamCreateWithPriority",
                        out -> lii(STREAM_CREATE_WITH_PRIORITY, out, STREAM_NON_BLOCKING, URGENT))
                .get(JAVA_LONG, 0);
    }

    static void streamDestroy(long stream) {
        check("cuStreamDestroy_v2", l(STREAM_DESTROY, stream));
    }

    static void streamSynchronize(long stream) {
        check("cuStreamSynchronize", l(STREAM_SYNCHRONIZE, stream));
    }

    static void streamWaitEvent(long stream, long event) {
        int status;
        try {
            status = (int) STREAM_WAIT.invokeExact(stream, event, 0);
        } catch (Throwable e) {
            throw Native.failed("cuStreamWaitEvent", e);
        }
        check("cuStreamWaitEvent", status);
    }

    /// Relaxed: calls that a capture elsewhere would forbid stay allowed.
    static void streamBeginCapture(long stream) {
        check("cuStreamBeginCapture_v2", li(CAPTURE_BEGIN, stream, CAPTURE_RELAXED));
    }

    /// The graph of what was captured.
    static long streamEndCapture(long stream) {
        return created("cuStreamEndCapture", out -> ll(CAPTURE_END, stream, out))
                .get(JAVA_LONG, 0);
    }

    static boolean streamIsCapturing(long stream) {
        return created("cuStreamIsCapturing", out -> ll(CAPTURING, stream, out)).get(JAVA_INT, 0) != 0;
    }

    // Graphs.

    static long graphNodes(long graph) {
        return created("cuGraphGetNodes", out -> (int) GRAPH_NODES.invokeExact(graph, 0L, out))
                .get(JAVA_LONG, 0);
    }

    /// An executable graph.
    static long graphInstantiate(long graph) {
        return created("cuGraphInstantiateWithFlags", out -> (int) GRAPH_INSTANTIATE.invokeExact(out, graph, 0L))
                .get(JAVA_LONG, 0);
    }

    static void graphUpload(long executable, long stream) {
        check("cuGraphUpload", ll(GRAPH_UPLOAD, executable, stream));
    }

    static void graphLaunch(long executable, long stream) {
        check("cuGraphLaunch", ll(GRAPH_LAUNCH, executable, stream));
    }

    static void graphExecDestroy(long executable) {
        check("cuGraphExecDestroy", l(GRAPH_EXEC_DESTROY, executable));
    }

    static void graphDestroy(long graph) {
        check("cuGraphDestroy", l(GRAPH_DESTROY, graph));
    }

    // Events.

    /// @param timing whether [#eventElapsed] will be asked; without, an event costs less
    static long eventCreate(boolean timing) {
        int flags = timing ? 0 : EVENT_DISABLE_TIMING;
        return created("cuEventCreate", out -> li(EVENT_CREATE, out, flags)).get(JAVA_LONG, 0);
    }

    static void eventRecord(long event, long stream) {
        check("cuEventRecord", ll(EVENT_RECORD, event, stream));
    }

    static void eventSynchronize(long event) {
        check("cuEventSynchronize", l(EVENT_SYNCHRONIZE, event));
    }

    /// Milliseconds between two recorded events, both reached.
    static float eventElapsed(long from, long to) {
        return created("cuEventElapsedTime", out -> (int) EVENT_ELAPSED.invokeExact(out, from, to))
                .get(JAVA_FLOAT, 0);
    }

    static void eventDestroy(long event) {
        check("cuEventDestroy_v2", l(EVENT_DESTROY, event));
    }

    // Modules and functions.

    /// Loads a cubin, or PTX that ends with a zero byte.
    static long moduleLoad(byte[] image) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment copy = arena.allocate(image.length, 16);
            MemorySegment.copy(image, 0, copy, JAVA_BYTE, 0, image.length);
            return created("cuModuleLoadDataEx", out -> (int) MODULE_LOAD.invokeExact(out, copy.address(), 0, 0L, 0L))
                    .get(JAVA_LONG, 0);
        }
    }

    static void moduleUnload(long module) {
        check("cuModuleUnload", l(MODULE_UNLOAD, module));
    }

    static long moduleFunction(long module, String name) {
        try (Arena arena = Arena.ofConfined()) {
            long text = arena.allocateFrom(name).address();
            return created("cuModuleGetFunction", out -> (int) MODULE_FUNCTION.invokeExact(out, module, text))
                    .get(JAVA_LONG, 0);
        }
    }

    static void functionSet(long function, int attribute, int value) {
        int status;
        try {
            status = (int) FUNCTION_SET.invokeExact(function, attribute, value);
        } catch (Throwable e) {
            throw Native.failed("cuFuncSetAttribute", e);
        }
        check("cuFuncSetAttribute", status);
    }

    static int functionGet(long function, int attribute) {
        return created("cuFuncGetAttribute", out -> (int) FUNCTION_GET.invokeExact(out, attribute, function))
                .get(JAVA_INT, 0);
    }

    static int occupancy(long function, int block, long sharedBytes) {
        return created("cuOccupancyMaxActiveBlocksPerMultiprocessor", out ->
                        (int) OCCUPANCY.invokeExact(out, function, block, sharedBytes))
                .get(JAVA_INT, 0);
    }

    /// Launches a kernel with blocks of one dimension; returns the status, for the caller to say what it
    /// launched.
    ///
    /// @param parameters the address of an array of the parameters' addresses
    static int launchKernel(
            long function, int gridX, int gridY, int gridZ, int block, int sharedBytes, long stream, long parameters) {
        try {
            return (int)
                    LAUNCH.invokeExact(function, gridX, gridY, gridZ, block, 1, 1, sharedBytes, stream, parameters, 0L);
        } catch (Throwable e) {
            throw Native.failed("cuLaunchKernel", e);
        }
    }

    // Errors.

    static void check(String function, int status) {
        if (status != 0) {
            throw new CudaException(function + " returned " + describe(status), status);
        }
    }

    /// Such as "2 (CUDA_ERROR_OUT_OF_MEMORY: out of memory)".
    static String describe(int status) {
        return status + " (" + errorText(ERROR_NAME, status) + ": " + errorText(ERROR_STRING, status) + ")";
    }

    private static String errorText(MethodHandle function, int status) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(JAVA_LONG);
            int unknown = (int) function.invokeExact(status, out.address());
            long text = out.get(JAVA_LONG, 0);
            return unknown != 0 || text == 0 ? "unknown" : NativeMemory.ALL.getString(text);
        } catch (Throwable e) {
            throw Native.failed("cuGetErrorName", e);
        }
    }

    // Calls by the types of their arguments: l is a long, i an int. They allocate nothing.

    private static int l(MethodHandle function, long a) {
        try {
            return (int) function.invokeExact(a);
        } catch (Throwable e) {
            throw Native.failed("a function of the CUDA driver", e);
        }
    }

    private static int i(MethodHandle function, int a) {
        try {
            return (int) function.invokeExact(a);
        } catch (Throwable e) {
            throw Native.failed("a function of the CUDA driver", e);
        }
    }

    private static int ll(MethodHandle function, long a, long b) {
        try {
            return (int) function.invokeExact(a, b);
        } catch (Throwable e) {
            throw Native.failed("a function of the CUDA driver", e);
        }
    }

    private static int li(MethodHandle function, long a, int b) {
        try {
            return (int) function.invokeExact(a, b);
        } catch (Throwable e) {
            throw Native.failed("a function of the CUDA driver", e);
        }
    }

    private static int lii(MethodHandle function, long a, int b, int c) {
        try {
            return (int) function.invokeExact(a, b, c);
        } catch (Throwable e) {
            throw Native.failed("a function of the CUDA driver", e);
        }
    }

    private static int llll(MethodHandle function, long a, long b, long c, long d) {
        try {
            return (int) function.invokeExact(a, b, c, d);
        } catch (Throwable e) {
            throw Native.failed("a function of the CUDA driver", e);
        }
    }

    private static final int OUT_BYTES = 256;

    @FunctionalInterface
    private interface Creator {
        int create(long out) throws Throwable;
    }

    /// What a function wrote to its result parameter: on the heap, so that it outlives the call.
    private static MemorySegment created(String function, Creator creator) {
        MemorySegment result = MemorySegment.ofArray(new long[OUT_BYTES / Long.BYTES]);
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(OUT_BYTES, 16);
            int status;
            try {
                status = creator.create(out.address());
            } catch (Throwable e) {
                throw Native.failed(function, e);
            }
            check(function, status);
            result.copyFrom(out);
        }
        return result;
    }
}
