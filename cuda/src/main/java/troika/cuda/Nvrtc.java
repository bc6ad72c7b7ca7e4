package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import troika.ffi.Native;
import troika.ffi.NativeMemory;

/// NVIDIA's run-time compiler of kernels.
final class Nvrtc {
    private static final MethodHandle VERSION = handle("nvrtcVersion", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle ARCHITECTURE_COUNT = handle("nvrtcGetNumSupportedArchs", JAVA_LONG);
    private static final MethodHandle ARCHITECTURES = handle("nvrtcGetSupportedArchs", JAVA_LONG);
    private static final MethodHandle CREATE =
            handle("nvrtcCreateProgram", JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle COMPILE = handle("nvrtcCompileProgram", JAVA_LONG, JAVA_INT, JAVA_LONG);
    private static final MethodHandle DESTROY = handle("nvrtcDestroyProgram", JAVA_LONG);
    private static final MethodHandle LOG_SIZE = handle("nvrtcGetProgramLogSize", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle LOG = handle("nvrtcGetProgramLog", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle CUBIN_SIZE = handle("nvrtcGetCUBINSize", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle CUBIN = handle("nvrtcGetCUBIN", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle PTX_SIZE = handle("nvrtcGetPTXSize", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle PTX = handle("nvrtcGetPTX", JAVA_LONG, JAVA_LONG);
    private static final MethodHandle ERROR_STRING =
            CudaLibraries.nvrtc().function("nvrtcGetErrorString", JAVA_LONG, new MemoryLayout[] {JAVA_INT});

    private Nvrtc() {}

    private static MethodHandle handle(String function, MemoryLayout... arguments) {
        return CudaLibraries.nvrtc().function(function, JAVA_INT, arguments);
    }

    /// Such as "13.0".
    static String version() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(JAVA_INT, 2);
            call("nvrtcVersion", () -> (int) VERSION.invokeExact(out.address(), out.address() + 4));
            return out.get(JAVA_INT, 0) + "." + out.get(JAVA_INT, 4);
        }
    }

    /// The capabilities that it compiles for, such as 80, 89, 90.
    static List<Integer> architectures() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment count = arena.allocate(JAVA_INT);
            call("nvrtcGetNumSupportedArchs", () -> (int) ARCHITECTURE_COUNT.invokeExact(count.address()));
            int n = count.get(JAVA_INT, 0);
            MemorySegment out = arena.allocate(JAVA_INT, Math.max(1, n));
            call("nvrtcGetSupportedArchs", () -> (int) ARCHITECTURES.invokeExact(out.address()));
            List<Integer> architectures = new ArrayList<>();
            for (int i = 0; i < n; i++) {
                architectures.add(out.getAtIndex(JAVA_INT, i));
            }
            return architectures;
        }
    }

    /// Compiles a source; throws [CudaException] with the compiler's messages.
    ///
    /// @param name the file's name, for messages
    /// @param ptx whether to return PTX, ended by a zero byte, rather than a cubin
    static byte[] compile(String name, String text, List<String> options, boolean ptx) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment program = arena.allocate(JAVA_LONG);
            long source = arena.allocateFrom(text).address();
            long file = arena.allocateFrom(name).address();
            call("nvrtcCreateProgram", () -> (int) CREATE.invokeExact(program.address(), source, file, 0, 0L, 0L));
            long handle = program.get(JAVA_LONG, 0);
            try {
                MemorySegment list = arena.allocate(JAVA_LONG, options.size());
                for (int i = 0; i < options.size(); i++) {
                    list.setAtIndex(
                            JAVA_LONG, i, arena.allocateFrom(options.get(i)).address());
                }
                int status;
                try {
                    status = (int) COMPILE.invokeExact(handle, options.size(), list.address());
                } catch (Throwable e) {
                    throw Native.failed("nvrtcCompileProgram", e);
                }
                if (status != 0) {
                    byte[] log = result(arena, handle, "nvrtcGetProgramLog", LOG_SIZE, LOG);
                    throw new CudaException(
                            "nvrtcCompileProgram returned " + describe(status) + " for " + name + " with " + options
                                    + ":\n" + new String(log, StandardCharsets.UTF_8).strip(),
                            status);
                }
                return ptx
                        ? result(arena, handle, "nvrtcGetPTX", PTX_SIZE, PTX)
                        : result(arena, handle, "nvrtcGetCUBIN", CUBIN_SIZE, CUBIN);
            } finally {
                call("nvrtcDestroyProgram", () -> (int) DESTROY.invokeExact(program.address()));
            }
        }
    }

    private static byte[] result(Arena arena, long program, String function, MethodHandle size, MethodHandle get) {
        MemorySegment bytes = arena.allocate(JAVA_LONG);
        call(function + "Size", () -> (int) size.invokeExact(program, bytes.address()));
        MemorySegment out = arena.allocate(Math.max(1, bytes.get(JAVA_LONG, 0)));
        call(function, () -> (int) get.invokeExact(program, out.address()));
        return out.toArray(JAVA_BYTE);
    }

    @FunctionalInterface
    private interface Call {
        int status() throws Throwable;
    }

    private static void call(String function, Call call) {
        int status;
        try {
            status = call.status();
        } catch (Throwable e) {
            throw Native.failed(function, e);
        }
        if (status != 0) {
            throw new CudaException(function + " returned " + describe(status), status);
        }
    }

    private static String describe(int status) {
        try {
            long text = (long) ERROR_STRING.invokeExact(status);
            return status + " (" + (text == 0 ? "unknown" : NativeMemory.ALL.getString(text)) + ")";
        } catch (Throwable e) {
            throw Native.failed("nvrtcGetErrorString", e);
        }
    }
}
