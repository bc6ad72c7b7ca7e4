package troika.model;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import troika.tensor.DType;
import troika.tensor.UserException;

/// A safetensors file, mapped read-only into memory. Nothing in it is trusted: a header that is not exactly
/// right is refused. Any thread may read; closing takes the memory away from all.
public final class SafetensorsFile implements AutoCloseable {
    static final long LONGEST_HEADER = 100L << 20;
    private static final ValueLayout.OfLong LENGTH = ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

    private final Path path;
    private final Arena arena;
    private final MemorySegment data;
    private final Map<String, SafetensorsHeader.Entry> entries;

    private SafetensorsFile(Path path, Arena arena, MemorySegment data, Map<String, SafetensorsHeader.Entry> entries) {
        this.path = path;
        this.arena = arena;
        this.data = data;
        this.entries = entries;
    }

    /// Maps a file and checks its header.
    ///
    /// @throws UserException where the file cannot be read or is no well-formed safetensors file; names
    ///   file and tensor
    @SuppressWarnings("MustBeClosedChecker") // close() closes the arena
    public static SafetensorsFile open(Path path) {
        Arena arena = Arena.ofShared();
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ)) {
            long size = channel.size();
            if (size < 8) {
                throw new UserException(path + " has " + size + " bytes, too few for a safetensors file.");
            }
            MemorySegment all = channel.map(FileChannel.MapMode.READ_ONLY, 0, size, arena);
            long length = all.get(LENGTH, 0);
            if (length < 2 || length > LONGEST_HEADER || length > size - 8) {
                throw new UserException(path + " is no safetensors file or is cut short: it says its header has "
                        + Long.toUnsignedString(length) + " bytes, in a file of " + size + ".");
            }
            byte[] header = all.asSlice(8, length).toArray(ValueLayout.JAVA_BYTE);
            MemorySegment data = all.asSlice(8 + length);
            var entries = SafetensorsHeader.parse(path.toString(), header, data.byteSize());
            return new SafetensorsFile(path, arena, data, entries);
        } catch (NoSuchFileException e) {
            arena.close();
            throw new UserException(path + " does not exist.", e);
        } catch (IOException e) {
            arena.close();
            throw new UserException(path + " cannot be read: " + e.getMessage() + ".", e);
        } catch (RuntimeException | Error e) {
            arena.close();
            throw e;
        }
    }

    Path path() {
        return path;
    }

    /// The tensors' names, in the header's order.
    public Set<String> names() {
        return entries.keySet();
    }

    /// @throws UserException where the file has no such tensor, or its dtype is none of [DType]
    public SafetensorsTensor tensor(String name) {
        var entry = entries.get(name);
        if (entry == null) {
            throw new UserException("There is no tensor " + name + " in " + path + ".");
        }
        DType dtype = dtype(entry.dtype())
                .orElseThrow(() -> new UserException("Tensor " + name + " in " + path + " has dtype " + entry.dtype()
                        + ", which Troika does not use; convert it to F32, BF16 or F16."));
        return new SafetensorsTensor(name, dtype, entry.shape(), bytes(name));
    }

    /// The bytes of a tensor, whatever its dtype.
    ///
    /// @throws UserException where the file has no such tensor
    public MemorySegment bytes(String name) {
        var entry = entries.get(name);
        if (entry == null) {
            throw new UserException("There is no tensor " + name + " in " + path + ".");
        }
        return data.asSlice(entry.begin(), entry.end() - entry.begin());
    }

    @Override
    public void close() {
        arena.close();
    }

    private static Optional<DType> dtype(String name) {
        for (DType dtype : DType.values()) {
            if (dtype.name().equals(name)) {
                return Optional.of(dtype);
            }
        }
        return Optional.empty();
    }
}
