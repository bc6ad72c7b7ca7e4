package troika.tensor;

import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// One rank's device: where its memory, streams and kernels come from. Several ranks may share one
/// piece of hardware, each through a Device of its own.
public interface Device extends AutoCloseable {
    /// A name for messages and reports, such as "cpu:0 (AMD EPYC, 2 threads, avx512_bf16)".
    String name();

    /// Takes zeroed device memory, aligned to 4096 bytes. Throws [UserException] where there is not enough.
    Memory allocate(String name, long bytes);

    /// Takes zeroed pinned host memory, aligned to 4096 bytes.
    Memory allocateHost(String name, long bytes);

    void free(Memory memory);

    /// What is used of the memory, and what is left; takes up to milliseconds. May be asked by any thread.
    DeviceMemory memory();

    /// A stream. One that runs kernels gets its workspace here, of [DeviceNeeds#workspaceBytes] bytes, from the rank's
    /// arena.
    Stream stream(String name, @Nullable Tensor workspace);

    Event event();

    /// An event that costs more and tells the time.
    TimedEvent timedEvent();

    Kernels kernels();

    /// How its kernels work where there is a choice, a sentence each, such as which attention runs; complete
    /// when all has been captured.
    default List<String> notes() {
        return List.of();
    }

    /// The algorithm of each product so far, by product, in words; empty where there is no choice.
    default Map<String, String> algorithms() {
        return Map.of();
    }

    /// Copies host bytes into a tensor, or a tensor into host bytes, synchronously; for loading, saving and diagnosis.
    void write(Tensor to, MemorySegment from);

    void read(Tensor from, MemorySegment to);

    @Override
    void close();
}
