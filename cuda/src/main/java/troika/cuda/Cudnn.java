package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.nio.charset.StandardCharsets;
import troika.ffi.Native;
import troika.ffi.NativeLibrary;

/// The functions of cuDNN's backend API (cudnn_graph.h, version 9) that attention needs. Handles and
/// descriptors are `long`. A failure throws [CudaException] with cuDNN's own words. Use it only where
/// [CudaLibraries#cudnn] found one.
final class Cudnn {
    private static final int TEXT_BYTES = 4096;
    private static final NativeLibrary LIBRARY = library();

    private static final MethodHandle VERSION = LIBRARY.function("cudnnGetVersion", JAVA_LONG, new MemoryLayout[0]);
    private static final MethodHandle LAST_ERROR =
            LIBRARY.function("cudnnGetLastErrorString", null, new MemoryLayout[] {JAVA_LONG, JAVA_LONG});
    private static final MethodHandle CREATE = status("cudnnCreate", JAVA_LONG);
    private static final MethodHandle DESTROY = status("cudnnDestroy", JAVA_LONG);
    private static final MethodHandle SET_STREAM = status("cudnnSetStream", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle CREATE_DESCRIPTOR = status("cudnnBackendCreateDescriptor", JAVA_INT, JAVA_LONG);
    private static final MethodHandle DESTROY_DESCRIPTOR = status("cudnnBackendDestroyDescriptor", JAVA_LONG);
    private static final MethodHandle SET_ATTRIBUTE =
            status("cudnnBackendSetAttribute", JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle GET_ATTRIBUTE =
            status("cudnnBackendGetAttribute", JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle FINALIZE = status("cudnnBackendFinalize", JAVA_LONG);
    private static final MethodHandle EXECUTE = status("cudnnBackendExecute", JAVA_LONG, JAVA_LONG, JAVA_LONG);

    private Cudnn() {}

    private static NativeLibrary library() {
        NativeLibrary library = CudaLibraries.cudnn();
        if (library == null) {
            throw new IllegalStateException("there is no cuDNN");
        }
        return library;
    }

    private static MethodHandle status(String function, MemoryLayout... arguments) {
        return LIBRARY.function(function, JAVA_INT, arguments);
    }

    /// 10000 · major + 100 · minor + patch, such as 91900.
    static long version() {
        try {
            return (long) VERSION.invokeExact();
        } catch (Throwable e) {
            throw Native.failed("cudnnGetVersion", e);
        }
    }

    /// A handle, of the context that is current on this thread.
    static long create() {
        return out("cudnnCreate", at -> (int) CREATE.invokeExact(at));
    }

    static void destroy(long handle) {
        call("cudnnDestroy", () -> (int) DESTROY.invokeExact(handle));
    }

    static void setStream(long handle, long stream) {
        call("cudnnSetStream", () -> (int) SET_STREAM.invokeExact(handle, stream));
    }

    /// @param type one of [CudnnNames]' descriptors
    static long createDescriptor(int type) {
        return out("cudnnBackendCreateDescriptor of type " + type, at -> (int) CREATE_DESCRIPTOR.invokeExact(type, at));
    }

    static void destroyDescriptor(long descriptor) {
        call("cudnnBackendDestroyDescriptor", () -> (int) DESTROY_DESCRIPTOR.invokeExact(descriptor));
    }

    /// Sets an attribute of elements of up to 8 bytes: enums and booleans are the low bytes of a
    /// little-endian long, and a single element's rest is not read.
    static void set(long descriptor, int attribute, int type, long... values) {
        try (Arena arena = Arena.ofConfined()) {
            set(descriptor, attribute, type, values.length, arena.allocateFrom(JAVA_LONG, values));
        }
    }

    static void setText(long descriptor, int attribute, String text) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment bytes = arena.allocateFrom(text);
            set(descriptor, attribute, CudnnNames.TYPE_CHAR, bytes.byteSize() - 1, bytes);
        }
    }

    private static void set(long descriptor, int attribute, int type, long count, MemorySegment value) {
        long at = value.address();
        call("cudnnBackendSetAttribute of attribute " + attribute, () ->
                (int) SET_ATTRIBUTE.invokeExact(descriptor, attribute, type, count, at));
    }

    /// Gets up to `count` elements of an attribute, and returns how many there are.
    static long get(long descriptor, int attribute, int type, long count, MemorySegment to) {
        long at = to.address();
        return out("cudnnBackendGetAttribute of attribute " + attribute, n ->
                (int) GET_ATTRIBUTE.invokeExact(descriptor, attribute, type, count, n, at));
    }

    static long getLong(long descriptor, int attribute) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment value = arena.allocate(JAVA_LONG);
            get(descriptor, attribute, CudnnNames.TYPE_INT64, 1, value);
            return value.get(JAVA_LONG, 0);
        }
    }

    static String getText(long descriptor, int attribute) {
        try (Arena arena = Arena.ofConfined()) {
            long bytes = get(descriptor, attribute, CudnnNames.TYPE_CHAR, 0, MemorySegment.NULL);
            MemorySegment text = arena.allocate(bytes + 1);
            get(descriptor, attribute, CudnnNames.TYPE_CHAR, bytes, text);
            return text.getString(0, StandardCharsets.UTF_8);
        }
    }

    static void finish(long descriptor, int type) {
        call("cudnnBackendFinalize of a descriptor of type " + type, () -> (int) FINALIZE.invokeExact(descriptor));
    }

    /// Enqueues a plan on the handle's stream; may be captured.
    static void execute(long handle, long plan, long variantPack) {
        call("cudnnBackendExecute", () -> (int) EXECUTE.invokeExact(handle, plan, variantPack));
    }

    @FunctionalInterface
    private interface Call {
        int status() throws Throwable;
    }

    @FunctionalInterface
    private interface OutCall {
        int status(long out) throws Throwable;
    }

    private static long out(String function, OutCall call) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(JAVA_LONG);
            call(function, () -> call.status(out.address()));
            return out.get(JAVA_LONG, 0);
        }
    }

    private static void call(String function, Call call) {
        try {
            int status = call.status();
            if (status != 0) {
                throw new CudaException(function + " returned " + status + " (" + lastError() + ")", status);
            }
        } catch (Throwable e) {
            throw Native.failed(function, e);
        }
    }

    private static String lastError() throws Throwable {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment text = arena.allocate(TEXT_BYTES);
            LAST_ERROR.invokeExact(text.address(), (long) TEXT_BYTES);
            return text.getString(0, StandardCharsets.UTF_8).strip();
        }
    }
}
