package troika.model;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32C;
import org.jspecify.annotations.Nullable;
import tools.jackson.databind.node.ObjectNode;

/// Writes tensors as `<stem>.safetensors`, or where that would exceed a size as
/// `<stem>-00001-of-0000N.safetensors` and so on with `<stem>.safetensors.index.json`, as Hugging Face
/// does.
public final class SafetensorsShards implements AutoCloseable {
    /// The largest size of a shard unless asked otherwise.
    public static final long SHARD_BYTES = 5_000_000_000L;

    /// A file that was written, with its CRC-32C, and that of each tensor in it.
    public record Written(String file, long bytes, int checksum, Map<String, Integer> tensors) {}

    private final Path directory;
    private final String stem;
    private final List<List<SafetensorsWriter.Entry>> shards;
    private final Map<String, Integer> shardOf = new LinkedHashMap<>();
    private final List<Written> done = new ArrayList<>();
    private @Nullable SafetensorsWriter writer;
    private int current = -1;

    private SafetensorsShards(Path directory, String stem, List<List<SafetensorsWriter.Entry>> shards) {
        this.directory = directory;
        this.stem = stem;
        this.shards = shards;
        for (int i = 0; i < shards.size(); i++) {
            for (var entry : shards.get(i)) {
                if (shardOf.put(entry.name(), i) != null) {
                    throw new IllegalArgumentException("two tensors " + entry.name());
                }
            }
        }
    }

    /// Begins to write into a directory that has none of these files yet.
    ///
    /// @param entries    all tensors, in the order in which they will be written
    /// @param shardBytes the most bytes of tensors in a file, except that one tensor is never split
    public static SafetensorsShards create(
            Path directory, String stem, List<SafetensorsWriter.Entry> entries, long shardBytes) throws IOException {
        var shards = new ArrayList<List<SafetensorsWriter.Entry>>();
        var shard = new ArrayList<SafetensorsWriter.Entry>();
        long bytes = 0;
        for (var entry : entries) {
            if (!shard.isEmpty() && bytes + entry.bytes() > shardBytes) {
                shards.add(shard);
                shard = new ArrayList<>();
                bytes = 0;
            }
            shard.add(entry);
            bytes += entry.bytes();
        }
        shards.add(shard);
        var files = new SafetensorsShards(directory, stem, shards);
        files.next();
        return files;
    }

    /// Appends bytes of the tensor whose turn it is; see [SafetensorsWriter#write].
    public void write(String name, MemorySegment chunk) throws IOException {
        Integer shard = shardOf.get(name);
        if (shard == null) {
            throw new IllegalArgumentException(name + " was not declared");
        }
        if (shard == current + 1) {
            next();
        }
        open().write(name, chunk);
    }

    /// Ends the last file and writes the index where there are several. When this returns, the bytes are on
    /// the disk.
    ///
    /// @return the files written
    public List<Written> finish() throws IOException {
        while (current < shards.size() - 1) {
            next();
        }
        finishCurrent();
        if (shards.size() > 1) {
            writeIndex();
        }
        return List.copyOf(done);
    }

    @Override
    public void close() throws IOException {
        if (writer != null) {
            writer.close();
            writer = null;
        }
    }

    private SafetensorsWriter open() {
        if (writer == null) {
            throw new IllegalStateException("the files are finished");
        }
        return writer;
    }

    private void next() throws IOException {
        if (current >= 0) {
            finishCurrent();
        }
        current++;
        writer = SafetensorsWriter.create(directory.resolve(fileName(current)), shards.get(current));
    }

    private void finishCurrent() throws IOException {
        try (SafetensorsWriter open = open()) {
            open.finish();
            done.add(new Written(fileName(current), open.bytes(), open.checksum(), open.tensorChecksums()));
        }
        writer = null;
    }

    private String fileName(int shard) {
        return shards.size() == 1
                ? stem + ".safetensors"
                : "%s-%05d-of-%05d.safetensors".formatted(stem, shard + 1, shards.size());
    }

    private void writeIndex() throws IOException {
        ObjectNode json = JsonFields.newObject();
        long total = shards.stream()
                .flatMap(List::stream)
                .mapToLong(SafetensorsWriter.Entry::bytes)
                .sum();
        json.putObject("metadata").put("total_size", total);
        ObjectNode weightMap = json.putObject("weight_map");
        shardOf.forEach((name, shard) -> weightMap.put(name, fileName(shard)));
        byte[] bytes = JsonFields.write(json);
        Path index = directory.resolve(ModelWeights.indexName(stem));
        Files.write(index, bytes, StandardOpenOption.WRITE, StandardOpenOption.CREATE_NEW);
        try (FileChannel channel = FileChannel.open(index, StandardOpenOption.WRITE)) {
            channel.force(true);
        }
        var checksum = new CRC32C();
        checksum.update(bytes);
        done.add(new Written(index.getFileName().toString(), bytes.length, (int) checksum.getValue(), Map.of()));
    }
}
