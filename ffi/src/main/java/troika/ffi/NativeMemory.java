package troika.ffi;

import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.concurrent.atomic.AtomicLong;

/// The process's memory as one segment, for kernels that address native memory by number; and what this program
/// takes of it, counted.
public final class NativeMemory {
    /// Every address is its own offset here. Nothing is checked: bounds are checked where tensors are made. A static
    /// final segment of the global scope costs the JIT no session or bounds checks that matter.
    public static final MemorySegment ALL = MemorySegment.NULL.reinterpret(Long.MAX_VALUE);

    private static final long PAGE = 4096;
    private static final long HUGE_PAGE = 2L << 20;
    private static final int ADVICE_HUGE_PAGES = 14;

    private static final Linker LINKER = Linker.nativeLinker();
    private static final MethodHandle ALIGNED_ALLOC = LINKER.downcallHandle(
            LINKER.defaultLookup().findOrThrow("aligned_alloc"),
            FunctionDescriptor.of(ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG));
    private static final MethodHandle FREE = LINKER.downcallHandle(
            LINKER.defaultLookup().findOrThrow("free"), FunctionDescriptor.ofVoid(ValueLayout.JAVA_LONG));
    private static final MethodHandle ADVISE = LINKER.downcallHandle(
            LINKER.defaultLookup().findOrThrow("madvise"),
            FunctionDescriptor.of(
                    ValueLayout.JAVA_INT, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG, ValueLayout.JAVA_INT));

    private static final AtomicLong ALLOCATIONS = new AtomicLong();
    private static final AtomicLong ALLOCATED_BYTES = new AtomicLong();

    private NativeMemory() {}

    /// Takes zeroed memory and returns its address: aligned to 4096 bytes, or, from 2 MiB on, to 2 MiB and backed by
    /// huge pages where the system has them. Throws OutOfMemoryError where there is none.
    public static long allocate(long bytes) {
        long alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE;
        long size = Math.max(alignment, Math.ceilDiv(bytes, alignment) * alignment);
        long address;
        try {
            address = (long) ALIGNED_ALLOC.invokeExact(alignment, size);
            if (address != 0 && alignment == HUGE_PAGE) {
                // Advice only: without huge pages the memory is the same, but slower to reach.
                int _ = (int) ADVISE.invokeExact(address, size, ADVICE_HUGE_PAGES);
            }
        } catch (Throwable e) {
            throw Native.failed("aligned_alloc", e);
        }
        if (address == 0) {
            throw new OutOfMemoryError("no " + bytes + " bytes of native memory");
        }
        ALL.asSlice(address, size).fill((byte) 0);
        count(bytes);
        return address;
    }

    /// Counts an allocation that was made elsewhere, such as a card's or pinned memory of its driver.
    public static void count(long bytes) {
        ALLOCATIONS.incrementAndGet();
        ALLOCATED_BYTES.addAndGet(bytes);
    }

    /// Gives back what [#allocate] returned.
    public static void free(long address) {
        try {
            FREE.invokeExact(address);
        } catch (Throwable e) {
            throw Native.failed("free", e);
        }
    }

    /// The number of allocations so far, in the whole process; a warm training step adds none.
    public static long allocations() {
        return ALLOCATIONS.get();
    }

    /// The bytes of all allocations so far, those freed included.
    public static long allocatedBytes() {
        return ALLOCATED_BYTES.get();
    }
}
