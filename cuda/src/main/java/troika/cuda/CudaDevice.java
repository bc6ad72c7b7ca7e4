package troika.cuda;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CopyOnWriteArrayList;
import org.jspecify.annotations.Nullable;
import troika.ffi.NativeMemory;
import troika.tensor.Bytes;
import troika.tensor.Device;
import troika.tensor.DeviceMemory;
import troika.tensor.Event;
import troika.tensor.Kernels;
import troika.tensor.Memory;
import troika.tensor.Stream;
import troika.tensor.Tensor;
import troika.tensor.TimedEvent;
import troika.tensor.UserException;

/// A rank's card, through the card's primary context, which ranks that share the card share too. Streams,
/// handles of libraries and loaded kernels are the rank's own.
final class CudaDevice implements Device {
    /// The least scratch memory of a stream that runs kernels: cuBLASLt's and cuDNN's, and partial sums.
    static final long WORKSPACE_BYTES = 192L << 20;
    static final long LOGITS_AT_A_TIME = 128L << 20;

    /// What this process may take of a card beside its arenas and NCCL: context, kernels, cuBLASLt, cuDNN,
    /// graphs, and what collectives copy from other cards.
    static final long OVERHEAD_BYTES = 1L << 30;

    // cuDNN's deterministic backward of attention needs memory that grows with the square of the sequence,
    // and is cut in parts until it fits; many small parts are slow.
    private static final long DETERMINISTIC_WORKSPACE_BYTES = 576L << 20;

    private static final long PAGE = 4096;

    private final int ordinal;
    private final boolean deterministic;
    private final int handle;
    private final long context;
    private final String card;
    private final int capability;
    private final int multiprocessors;
    private final long sharedMemoryPerBlock;
    private final long totalBytes;
    private final String bus;
    private final long freeAtStart;
    private final DiskCache cache = DiskCache.ofUser();
    private final KernelLoader loader;
    private final Transfers transfers;
    private final CudaKernels kernels;

    /// What the driver returned, by the aligned address that others know.
    private final Map<Long, Allocation> allocations = new HashMap<>();

    /// The open devices of this process: those of one card share its memory.
    private static final List<CudaDevice> OPEN = new CopyOnWriteArrayList<>();

    private final List<CudaStream> streams = new ArrayList<>();
    private final List<CudaEvent> events = new ArrayList<>();
    /// What others have made in this device's context and closes before it.
    private final Set<Runnable> closings = new LinkedHashSet<>();
    private final Set<String> notes = new LinkedHashSet<>();

    private volatile long allocatedBytes;
    private boolean closed;

    private record Allocation(long base, long bytes, boolean host) {}

    /// Opens a card that [CudaDeviceProvider] has found fit.
    CudaDevice(int ordinal, boolean deterministic) {
        this.ordinal = ordinal;
        this.deterministic = deterministic;
        handle = Driver.device(ordinal);
        card = Driver.deviceName(handle);
        capability = capability(handle);
        multiprocessors = Driver.attribute(Driver.MULTIPROCESSORS, handle);
        sharedMemoryPerBlock = Driver.attribute(Driver.SHARED_MEMORY_PER_BLOCK, handle);
        totalBytes = Driver.totalMemory(handle);
        bus = Driver.pciBusId(handle);
        long free = Nvml.freeMemory(bus);
        context = context(ordinal, card, handle);
        try {
            bind();
            // Without NVML, the context itself is not counted.
            freeAtStart = free > 0 ? free : Driver.memoryInfo().free();
            loader = new KernelLoader(this);
            transfers = new Transfers(this);
            kernels = new CudaKernels(this);
        } catch (Throwable e) {
            // The context takes all with it that was made in it, once no other rank has it.
            release(() -> Driver.primaryContextRelease(handle));
            throw e;
        }
        OPEN.add(this);
    }

    private static long context(int ordinal, String card, int handle) {
        try {
            return Driver.primaryContextRetain(handle);
        } catch (CudaException e) {
            throw new UserException(
                    "Card cuda:" + ordinal + " (" + card + ") cannot be used (" + e.getMessage()
                            + "): look with nvidia-smi whether other processes hold it or fill its memory.",
                    e);
        }
    }

    /// 10 · major + minor, such as 89 for sm_89.
    static int capability(int handle) {
        return 10 * Driver.attribute(Driver.CAPABILITY_MAJOR, handle)
                + Driver.attribute(Driver.CAPABILITY_MINOR, handle);
    }

    @Override
    public String name() {
        return "cuda:" + ordinal + " (" + card + ", " + (totalBytes >> 30) + " GiB, sm_" + capability + ", CUDA "
                + CudaLibraries.driverVersion() / 1000 + "." + CudaLibraries.driverVersion() % 1000 / 10 + ")";
    }

    int ordinal() {
        return ordinal;
    }

    /// The driver's CUdevice.
    int handle() {
        return handle;
    }

    /// The driver's CUcontext.
    long context() {
        return context;
    }

    /// 80, 89, 90, ...
    int capability() {
        return capability;
    }

    int multiprocessors() {
        return multiprocessors;
    }

    /// The most shared memory that a block can ask for, in bytes.
    long sharedMemoryPerBlock() {
        return sharedMemoryPerBlock;
    }

    /// Whether two runs must agree bit for bit.
    boolean deterministic() {
        return deterministic;
    }

    /// The card, its capability and the driver: what a cached choice of algorithms depends on.
    String identity() {
        return card + ", sm_" + capability + ", " + multiprocessors + " multiprocessors, CUDA "
                + CudaLibraries.driverVersion() + ", driver " + Nvml.driverVersion();
    }

    /// Makes this card's context current on the calling thread.
    void bind() {
        Driver.setCurrent(context);
    }

    /// A kernel of `troika/cuda/<source>.cu`, which is compiled on first use and loaded.
    CudaFunction function(String source, String kernel) {
        return loader.function(source, kernel);
    }

    DiskCache cache() {
        return cache;
    }

    @Override
    public synchronized Memory allocate(String name, long bytes) {
        bind();
        long size = Math.max(PAGE, Math.ceilDiv(bytes, PAGE) * PAGE);
        try {
            long base = Driver.memAlloc(size);
            if (base % PAGE != 0) {
                Driver.memFree(base);
                base = Driver.memAlloc(size + PAGE);
            }
            long address = Math.ceilDiv(base, PAGE) * PAGE;
            allocations.put(address, new Allocation(base, size, false));
            allocatedBytes += size;
            transfers.zero(address, size);
            NativeMemory.count(bytes);
            return new Memory(name, address, bytes, false);
        } catch (CudaException e) {
            if (e.status() != CudaException.OUT_OF_MEMORY) {
                throw e;
            }
            Driver.MemoryInfo memory = Driver.memoryInfo();
            throw new UserException(outOfMemory(name, bytes, name(), memory, Nvml.otherProcesses(bus)), e);
        }
    }

    /// The sentence that says what was wanted and what there is.
    ///
    /// @param others the processes that use the card beside this one, in words, or null where that is not
    /// known
    static String outOfMemory(
            String name, long bytes, String device, Driver.MemoryInfo memory, @Nullable String others) {
        return "The " + name + " needs " + size(bytes) + " of memory on " + device + ", which has "
                + size(memory.free())
                + " free of " + size(memory.total()) + (others == null ? "" : " (" + others + ")")
                + ": use a smaller model, batch or sequence length"
                + (others == null ? "." : ", or end what else uses the card.");
    }

    /// Such as "1.50 GiB" or "3.0 MiB".
    static String size(long bytes) {
        return bytes >= 1L << 30 ? Bytes.gib(bytes, 2) : Bytes.mib(bytes, 1);
    }

    @Override
    public synchronized Memory allocateHost(String name, long bytes) {
        bind();
        long size = Math.max(PAGE, Math.ceilDiv(bytes, PAGE) * PAGE);
        long base;
        try {
            base = Driver.memHostAlloc(size + PAGE);
        } catch (CudaException e) {
            if (e.status() != CudaException.OUT_OF_MEMORY && e.status() != CudaException.OPERATING_SYSTEM) {
                throw e;
            }
            throw new UserException(
                    "The " + name + " needs " + size(bytes) + " of pinned host memory, which the driver does not get ("
                            + e.getMessage() + "): free memory of this machine, or raise its limit of locked memory.",
                    e);
        }
        long address = Math.ceilDiv(base, PAGE) * PAGE;
        allocations.put(address, new Allocation(base, size, true));
        NativeMemory.ALL.asSlice(address, size).fill((byte) 0);
        NativeMemory.count(bytes);
        return new Memory(name, address, bytes, true);
    }

    @Override
    public synchronized void free(Memory memory) {
        Allocation allocation = allocations.remove(memory.address());
        if (allocation != null) {
            if (!allocation.host) {
                allocatedBytes -= allocation.bytes;
            }
            free(allocation);
        } else if (!closed) {
            throw new IllegalArgumentException(memory.name() + " is no memory of " + name());
        }
    }

    private void free(Allocation allocation) {
        release(() -> {
            if (allocation.host) {
                Driver.memFreeHost(allocation.base);
            } else {
                Driver.memFree(allocation.base);
            }
        });
    }

    @Override
    public DeviceMemory memory() {
        bind();
        Driver.MemoryInfo now = Driver.memoryInfo();
        List<CudaDevice> sharing =
                OPEN.stream().filter(device -> device.ordinal == ordinal).toList();
        long before =
                sharing.stream().mapToLong(device -> device.freeAtStart).max().orElse(freeAtStart);
        long all = sharing.stream().mapToLong(device -> device.allocatedBytes).sum();
        return share(
                memory(Nvml.memoryOfThisProcess(bus), before, now.free(), CudaCommunicatorProvider.ncclBytes(OPEN)),
                allocatedBytes,
                all,
                Math.max(1, sharing.size()));
    }

    /// What of a card's memory counts for one of the ranks that share it: what it has allocated and an
    /// equal part of what the process has taken beside; and of what is left, what makes all parts equal.
    ///
    /// @param own bytes that this rank has allocated
    /// @param all bytes that the ranks of the card have allocated
    static DeviceMemory share(DeviceMemory card, long own, long all, int ranks) {
        if (ranks == 1) {
            return card;
        }
        long used = own + Math.max(0, card.used() - all) / ranks;
        long free = (card.free() + all) / ranks - own;
        return new DeviceMemory(used, Math.clamp(free, 0, card.free()), card.overhead());
    }

    /// @param own what NVML says that this process uses; 0 where it does not know, as in a container: then
    /// what has gone since the card was opened is taken for this process's
    /// @param nccl bytes that it may take
    static DeviceMemory memory(long own, long freeAtStart, long free, long nccl) {
        return new DeviceMemory(own > 0 ? own : Math.max(0, freeAtStart - free), free, OVERHEAD_BYTES + nccl);
    }

    static long workspaceBytes(boolean deterministic) {
        return deterministic ? DETERMINISTIC_WORKSPACE_BYTES : WORKSPACE_BYTES;
    }

    long workspaceBytes() {
        return workspaceBytes(deterministic);
    }

    @Override
    public synchronized Stream stream(String name, @Nullable Tensor workspace) {
        if (workspace != null && (workspace.bytes() < workspaceBytes() || workspace.address() % 256 != 0)) {
            throw new IllegalArgumentException("the workspace of stream " + name + " has " + workspace.bytes()
                    + " bytes instead of " + workspaceBytes() + ", or is not aligned to 256");
        }
        CudaStream stream = new CudaStream(this, name, workspace);
        streams.add(stream);
        return stream;
    }

    @Override
    public Event event() {
        return event(false);
    }

    @Override
    public TimedEvent timedEvent() {
        return event(true);
    }

    private synchronized CudaEvent event(boolean timed) {
        CudaEvent event = new CudaEvent(this, timed);
        events.add(event);
        return event;
    }

    @Override
    public synchronized List<String> notes() {
        List<String> all = new ArrayList<>(kernels.notes());
        all.addAll(notes);
        return all;
    }

    /// Adds to [#notes] what is not there yet.
    synchronized void note(String note) {
        notes.add(note);
    }

    /// Has something closed before this device is, unless [#closedBefore] says that it was.
    synchronized void closeBefore(Runnable closing) {
        closings.add(closing);
    }

    synchronized void closedBefore(Runnable closing) {
        closings.remove(closing);
    }

    @Override
    public Map<String, String> algorithms() {
        return kernels.algorithms();
    }

    @Override
    public Kernels kernels() {
        return kernels;
    }

    @Override
    public void write(Tensor to, MemorySegment from) {
        if (to.memory().host()) {
            MemorySegment.copy(from, 0, NativeMemory.ALL, to.address(), to.bytes());
        } else {
            transfers.write(to.address(), from, to.bytes());
        }
    }

    @Override
    public void read(Tensor from, MemorySegment to) {
        if (from.memory().host()) {
            MemorySegment.copy(NativeMemory.ALL, from.address(), to, 0, from.bytes());
        } else {
            transfers.read(from.address(), to, from.bytes());
        }
    }

    /// Gives something back. After a failure of the card all calls fail; those who met it first have
    /// reported it, and closing must not hide it.
    void release(Runnable call) {
        try {
            bind();
            call.run();
        } catch (CudaException e) {
            // Nothing is lost: the process gives its context back when it ends.
        }
    }

    synchronized void closed(CudaStream stream) {
        streams.remove(stream);
    }

    /// Closes all streams and events, and frees memory that is left.
    @Override
    public synchronized void close() {
        if (closed) {
            return;
        }
        closed = true;
        OPEN.remove(this);
        List.copyOf(closings).forEach(Runnable::run);
        List.copyOf(streams).forEach(CudaStream::close);
        events.forEach(event -> release(event::close));
        release(kernels::close);
        allocations.values().forEach(this::free);
        allocations.clear();
        transfers.close();
        loader.close();
        release(() -> Driver.primaryContextRelease(handle));
    }
}
