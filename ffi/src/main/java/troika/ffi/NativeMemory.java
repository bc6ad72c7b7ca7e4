package troika.ffi;

import java.lang.foreign.MemorySegment;

/// The process's memory as one segment, for kernels that address native memory by number.
public final class NativeMemory {
    /// Every address is its own offset here. Nothing is checked: bounds are checked where tensors are made. A static
    /// final
    /// segment of the global scope costs the JIT no session or bounds checks that matter.
    public static final MemorySegment ALL = MemorySegment.NULL.reinterpret(Long.MAX_VALUE);

    private NativeMemory() {}
}
