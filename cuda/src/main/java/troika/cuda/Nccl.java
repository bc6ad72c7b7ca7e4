package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.util.List;
import troika.ffi.Native;
import troika.ffi.NativeLibrary;
import troika.ffi.NativeMemory;
import troika.tensor.DType;

/// NCCL's functions, each checked. Communicators are longs. Use it only where [CudaLibraries#nccl] is
/// there.
final class Nccl {
    private static final int SUM = 0;

    private static final MethodHandle VERSION = handle("ncclGetVersion", JAVA_LONG);
    private static final MethodHandle INIT_ALL = handle("ncclCommInitAll", JAVA_LONG, JAVA_INT, JAVA_LONG);
    private static final MethodHandle ABORT = handle("ncclCommAbort", JAVA_LONG);
    private static final MethodHandle ERROR = text("ncclGetErrorString", JAVA_INT);
    private static final MethodHandle LAST_ERROR = text("ncclGetLastError", JAVA_LONG);
    private static final MethodHandle GROUP_START = handle("ncclGroupStart");
    private static final MethodHandle GROUP_END = handle("ncclGroupEnd");
    private static final MethodHandle ALL_REDUCE =
            handle("ncclAllReduce", JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle REDUCE_SCATTER =
            handle("ncclReduceScatter", JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle ALL_GATHER =
            handle("ncclAllGather", JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle BROADCAST =
            handle("ncclBroadcast", JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG);
    private static final MethodHandle REDUCE =
            handle("ncclReduce", JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_INT, JAVA_INT, JAVA_INT, JAVA_LONG, JAVA_LONG);

    private Nccl() {}

    private static NativeLibrary library() {
        NativeLibrary library = CudaLibraries.nccl();
        if (library == null) {
            throw new IllegalStateException("there is no NCCL");
        }
        return library;
    }

    private static MethodHandle handle(String function, MemoryLayout... arguments) {
        return library().function(function, JAVA_INT, arguments);
    }

    private static MethodHandle text(String function, MemoryLayout argument) {
        return library().function(function, JAVA_LONG, new MemoryLayout[] {argument});
    }

    /// Such as "2.27.5".
    static String version() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(JAVA_INT);
            check("ncclGetVersion", 0, (int) VERSION.invokeExact(out.address()));
            return NcclGroup.dotted(out.get(JAVA_INT, 0));
        } catch (Throwable e) {
            throw Native.failed("ncclGetVersion", e);
        }
    }

    /// Communicators between cards, by rank, in their primary contexts; leaves one of these current.
    static long[] create(List<Integer> ordinals) {
        int size = ordinals.size();
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment communicators = arena.allocate(JAVA_LONG, size);
            MemorySegment cards = arena.allocate(JAVA_INT, size);
            for (int i = 0; i < size; i++) {
                cards.setAtIndex(JAVA_INT, i, ordinals.get(i));
            }
            check("ncclCommInitAll", 0, (int) INIT_ALL.invokeExact(communicators.address(), size, cards.address()));
            return communicators.toArray(JAVA_LONG);
        } catch (Throwable e) {
            throw Native.failed("ncclCommInitAll", e);
        }
    }

    /// Ends a communicator, and what it has under way. Alone among the functions that give it back, it
    /// waits for no other rank.
    static void abort(long communicator) {
        try {
            check("ncclCommAbort", 0, (int) ABORT.invokeExact(communicator));
        } catch (Throwable e) {
            throw Native.failed("ncclCommAbort", e);
        }
    }

    /// Sums to `out`, which may be `in`.
    static void allReduce(long communicator, long in, long out, long count, DType dtype, long stream) {
        try {
            check("ncclAllReduce", communicator, (int)
                    ALL_REDUCE.invokeExact(in, out, count, type(dtype), SUM, communicator, stream));
        } catch (Throwable e) {
            throw Native.failed("ncclAllReduce", e);
        }
    }

    /// @param count of each part
    /// @param out may be this rank's part of `in`
    static void reduceScatter(long communicator, long in, long out, long count, DType dtype, long stream) {
        try {
            check("ncclReduceScatter", communicator, (int)
                    REDUCE_SCATTER.invokeExact(in, out, count, type(dtype), SUM, communicator, stream));
        } catch (Throwable e) {
            throw Native.failed("ncclReduceScatter", e);
        }
    }

    /// @param count of each part
    /// @param in may be this rank's part of `out`
    static void allGather(long communicator, long in, long out, long count, DType dtype, long stream) {
        try {
            check("ncclAllGather", communicator, (int)
                    ALL_GATHER.invokeExact(in, out, count, type(dtype), communicator, stream));
        } catch (Throwable e) {
            throw Native.failed("ncclAllGather", e);
        }
    }

    /// Copies what the root has at `in` to `out` on all ranks.
    static void broadcast(long communicator, long in, long out, long count, DType dtype, int root, long stream) {
        try {
            check("ncclBroadcast", communicator, (int)
                    BROADCAST.invokeExact(in, out, count, type(dtype), root, communicator, stream));
        } catch (Throwable e) {
            throw Native.failed("ncclBroadcast", e);
        }
    }

    /// Sums to `out` on the root.
    static void reduce(long communicator, long in, long out, long count, DType dtype, int root, long stream) {
        try {
            check("ncclReduce", communicator, (int)
                    REDUCE.invokeExact(in, out, count, type(dtype), SUM, root, communicator, stream));
        } catch (Throwable e) {
            throw Native.failed("ncclReduce", e);
        }
    }

    /// Enqueues what the calls ask for as one.
    static void together(long communicator, Runnable calls) {
        group("ncclGroupStart", communicator, GROUP_START);
        try {
            calls.run();
        } finally {
            // Also behind a failure: the thread would stay in the group.
            group("ncclGroupEnd", communicator, GROUP_END);
        }
    }

    private static void group(String function, long communicator, MethodHandle handle) {
        try {
            check(function, communicator, (int) handle.invokeExact());
        } catch (Throwable e) {
            throw Native.failed(function, e);
        }
    }

    private static int type(DType dtype) {
        return switch (dtype) {
            case I32 -> 2;
            case F16 -> 6;
            case F32 -> 7;
            case BF16 -> 9;
        };
    }

    /// @param communicator whose last error is told, or 0
    private static void check(String function, long communicator, int status) {
        if (status == 0) {
            return;
        }
        String text;
        try {
            text = string((long) ERROR.invokeExact(status));
            String last = string((long) LAST_ERROR.invokeExact(communicator));
            text += last.isEmpty() ? "" : ": " + last.strip();
        } catch (Throwable e) {
            throw Native.failed("ncclGetLastError", e);
        }
        throw new CudaException(function + " returned " + status + " (" + text + ")", status);
    }

    private static String string(long address) {
        return address == 0 ? "" : NativeMemory.ALL.getString(address);
    }
}
