package troika.train.checkpoint;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32C;
import org.jspecify.annotations.Nullable;
import troika.model.SafetensorsShards;
import troika.model.SafetensorsWriter;
import troika.tensor.UserException;

/// Writes one directory of tensors and small files, a checkpoint or the final model, so that at every
/// moment, even if the process is killed or the machine loses power, the directory is whole or not there,
/// and one that it replaces is still there. It is written beside its place as `.<name>.partial`, synced,
/// read back and verified, then renamed.
///
/// Use: any number of [#tensors] sections and [#file] calls, then [#commit]. Closing without commit removes
/// all of it. Every failure to write is a [UserException], after which only [#close] may be called. Not
/// thread-safe.
public final class CheckpointWriter implements AutoCloseable {
    private final Path target;
    private final Path partial;
    private final Map<String, Manifest.Item> files = new LinkedHashMap<>();
    private @Nullable SafetensorsShards shards;
    private boolean committed;

    private CheckpointWriter(Path target) {
        this.target = target;
        this.partial = Disk.hidden(target, ".partial");
    }

    /// Begins `<output>/checkpoints/step-N`.
    public static CheckpointWriter checkpoint(Path output, long step) {
        if (step < 0) {
            throw new IllegalArgumentException("step " + step);
        }
        return begin(Checkpoints.directory(output, step));
    }

    /// Begins `<output>/model`.
    public static CheckpointWriter model(Path output) {
        return begin(output.resolve("model"));
    }

    private static CheckpointWriter begin(Path target) {
        var writer = new CheckpointWriter(target.toAbsolutePath().normalize());
        writer.attempt(() -> {
            Disk.deleteTree(writer.partial);
            Files.createDirectories(writer.partial);
            Checkpoints.restore(writer.target);
        });
        return writer;
    }

    /// Begins a set of tensors, written as `<stem>.safetensors` or in shards; ends the set before.
    ///
    /// @param entries    the tensors, in the order in which [#write] will bring them
    /// @param shardBytes the most bytes of a file; [SafetensorsShards#SHARD_BYTES] is usual
    public void tensors(String stem, List<SafetensorsWriter.Entry> entries, long shardBytes) {
        attempt(() -> {
            endTensors();
            shards = SafetensorsShards.create(partial, stem, entries, shardBytes);
        });
    }

    /// Appends bytes of the tensor whose turn it is.
    ///
    /// @param chunk little-endian elements in row-major order, on or off the Java heap
    public void write(String tensor, MemorySegment chunk) {
        SafetensorsShards open = shards;
        if (open == null) {
            throw new IllegalStateException("no tensors are declared");
        }
        attempt(() -> open.write(tensor, chunk));
    }

    /// Writes a small file, such as `trainer_state.json`.
    public void file(String name, byte[] content) {
        if (!Manifest.isPlain(name) || files.containsKey(name) || name.equals(Manifest.FILE)) {
            throw new IllegalArgumentException("file name " + name);
        }
        attempt(() -> {
            create(name, content);
            var checksum = new CRC32C();
            checksum.update(content);
            files.put(name, new Manifest.Item(content.length, (int) checksum.getValue(), Map.of()));
        });
    }

    /// Makes everything durable, verifies it and puts it in its place. When this returns, the new directory
    /// is there and will survive a power failure.
    ///
    /// @throws UserException where something cannot be written or does not read back as it was written;
    ///   what was in the place before is then still there
    public void commit() {
        attempt(() -> {
            endTensors();
            create(Manifest.FILE, new Manifest(files).json());
            Disk.sync(partial);
            Checkpoints.verify(partial);
            Path old = Checkpoints.old(target);
            if (Files.exists(target, LinkOption.NOFOLLOW_LINKS)) {
                Disk.delete(old);
                Disk.rename(target, old);
            }
            Disk.rename(partial, target);
            committed = true;
            Disk.sync(parent(target));
            Disk.sync(parent(parent(target)));
            Disk.delete(old);
        });
    }

    /// Removes an uncommitted directory.
    @Override
    public void close() {
        try {
            if (shards != null) {
                shards.close();
            }
            if (!committed) {
                Disk.deleteTree(partial);
                Checkpoints.restore(target);
            }
        } catch (IOException e) {
            throw new UserException("The unfinished " + partial + " could not be removed: " + e.getMessage() + ".", e);
        }
    }

    private void endTensors() throws IOException {
        SafetensorsShards open = shards;
        if (open != null) {
            for (SafetensorsShards.Written file : open.finish()) {
                files.put(file.file(), new Manifest.Item(file.bytes(), file.checksum(), file.tensors()));
            }
            open.close();
            shards = null;
        }
    }

    private void create(String name, byte[] content) throws IOException {
        try (FileChannel channel =
                FileChannel.open(partial.resolve(name), StandardOpenOption.WRITE, StandardOpenOption.CREATE_NEW)) {
            ByteBuffer buffer = ByteBuffer.wrap(content);
            while (buffer.hasRemaining()) {
                channel.write(buffer);
            }
            channel.force(true);
        }
    }

    private static Path parent(Path path) {
        Path parent = path.getParent();
        return parent == null ? path : parent;
    }

    private void attempt(Action action) {
        try {
            action.run();
        } catch (IOException e) {
            throw Disk.failure(target, e);
        }
    }

    @FunctionalInterface
    private interface Action {
        void run() throws IOException;
    }
}
