package troika.cpu;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import troika.ffi.NativeMemory;
import troika.tensor.Device;
import troika.tensor.DeviceMemory;
import troika.tensor.Event;
import troika.tensor.Kernels;
import troika.tensor.Memory;
import troika.tensor.Stream;
import troika.tensor.Tensor;
import troika.tensor.TimedEvent;
import troika.tensor.UserException;

/// A rank's part of this machine's cores.
final class CpuDevice implements Device {
    /// Scratch memory of one thread: enough for a product and for a block of attention with its accumulators.
    static final long SLOT_BYTES = 8L << 20;
    /// Enough rows for fast products, few enough bytes to stay in cache.
    static final long LOGITS_AT_A_TIME = 1 << 21;

    private static final long PAGE = 4096;

    private final int rank;
    private final int threads;
    private final long spinNanos;
    private final Kernels kernels = new CpuKernels();

    /// @param threads that share this rank's kernels
    /// @param spinNanos how long a waiting thread keeps its core
    CpuDevice(int rank, int threads, long spinNanos) {
        this.rank = rank;
        this.threads = threads;
        this.spinNanos = spinNanos;
    }

    @Override
    public String name() {
        return "cpu:" + rank + " (" + model() + ", " + threads + (threads == 1 ? " thread" : " threads") + ", "
                + OneDnn.instructionSet() + ")";
    }

    /// The processor's name.
    static String model() {
        try (var lines = Files.lines(Path.of("/proc/cpuinfo"))) {
            return lines.filter(line -> line.startsWith("model name"))
                    .map(line -> line.substring(line.indexOf(':') + 1).strip())
                    .findFirst()
                    .orElse(System.getProperty("os.arch", ""));
        } catch (IOException e) {
            return System.getProperty("os.arch", "");
        }
    }

    @Override
    public Memory allocate(String name, long bytes) {
        return take(name, bytes);
    }

    @Override
    public Memory allocateHost(String name, long bytes) {
        return take(name, bytes);
    }

    private static Memory take(String name, long bytes) {
        try {
            return new Memory(name, NativeMemory.allocate(bytes), bytes, true);
        } catch (OutOfMemoryError e) {
            throw new UserException(
                    "The " + name + " needs " + bytes + " bytes of memory, which this machine does not have free: "
                            + "use a smaller model or batch, or fewer ranks.",
                    e);
        }
    }

    @Override
    public void free(Memory memory) {
        NativeMemory.free(memory.address());
    }

    @Override
    public DeviceMemory memory() {
        return new DeviceMemory(resident(), Long.MAX_VALUE, 0);
    }

    /// Memory of this process that is resident, in bytes; 0 where the system does not tell.
    private static long resident() {
        try {
            String[] pages = Files.readString(Path.of("/proc/self/statm")).split(" ", 3);
            return Long.parseLong(pages[1]) * PAGE;
        } catch (IOException e) {
            return 0;
        }
    }

    long workspaceBytes() {
        return workspaceBytes(threads);
    }

    static long workspaceBytes(int threads) {
        return threads * SLOT_BYTES;
    }

    @Override
    public Stream stream(String name, @Nullable Tensor workspace) {
        if (workspace == null) {
            return new CpuStream(name, null, null, spinNanos);
        }
        if (workspace.bytes() < workspaceBytes()) {
            throw new IllegalArgumentException("the workspace of stream " + name + " has " + workspace.bytes()
                    + " bytes instead of " + workspaceBytes());
        }
        return new CpuStream(name, workspace, new CpuWorkers(name, threads, spinNanos), spinNanos);
    }

    @Override
    public Event event() {
        return new CpuEvent(spinNanos);
    }

    @Override
    public TimedEvent timedEvent() {
        return new CpuEvent(spinNanos);
    }

    @Override
    public Kernels kernels() {
        return kernels;
    }

    @Override
    public void write(Tensor to, MemorySegment from) {
        MemorySegment.copy(from, 0, NativeMemory.ALL, to.address(), to.bytes());
    }

    @Override
    public void read(Tensor from, MemorySegment to) {
        MemorySegment.copy(NativeMemory.ALL, from.address(), to, 0, from.bytes());
    }

    /// Streams and memory are closed by those who took them; the device itself holds nothing.
    @Override
    public void close() {}
}
