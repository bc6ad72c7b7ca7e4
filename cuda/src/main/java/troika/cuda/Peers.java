package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import troika.ffi.Native;

/// The driver's functions between two cards.
final class Peers {
    private static final MethodHandle CAN_ACCESS = handle("cuDeviceCanAccessPeer", JAVA_LONG, JAVA_INT, JAVA_INT);
    private static final MethodHandle ENABLE = handle("cuCtxEnablePeerAccess", JAVA_LONG, JAVA_INT);
    private static final MethodHandle COPY =
            handle("cuMemcpyPeerAsync", JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG);

    private static final int ENABLED_BEFORE = 704;

    private Peers() {}

    private static MethodHandle handle(String function, MemoryLayout... arguments) {
        return CudaLibraries.driver().function(function, JAVA_INT, arguments);
    }

    /// Whether one device (the driver's handle) can address the other's memory.
    static boolean canAccess(int device, int peer) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(JAVA_INT);
            int status;
            try {
                status = (int) CAN_ACCESS.invokeExact(out.address(), device, peer);
            } catch (Throwable e) {
                throw Native.failed("cuDeviceCanAccessPeer", e);
            }
            Driver.check("cuDeviceCanAccessPeer", status);
            return out.get(JAVA_INT, 0) != 0;
        }
    }

    /// Lets the current context address another's memory, if it may not yet.
    static void enable(long peerContext) {
        int status;
        try {
            status = (int) ENABLE.invokeExact(peerContext, 0);
        } catch (Throwable e) {
            throw Native.failed("cuCtxEnablePeerAccess", e);
        }
        if (status != ENABLED_BEFORE) {
            Driver.check("cuCtxEnablePeerAccess", status);
        }
    }

    /// Copies between two cards: directly where the stream's context may address both, else through the
    /// host.
    static void copyAsync(long to, long toContext, long from, long fromContext, long bytes, long stream) {
        int status;
        try {
            status = (int) COPY.invokeExact(to, toContext, from, fromContext, bytes, stream);
        } catch (Throwable e) {
            throw Native.failed("cuMemcpyPeerAsync", e);
        }
        Driver.check("cuMemcpyPeerAsync", status);
    }
}
