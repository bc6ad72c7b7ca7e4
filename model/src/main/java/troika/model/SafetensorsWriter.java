package troika.model;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32C;
import tools.jackson.databind.node.ObjectNode;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Writes one safetensors file: all tensors are declared first, then their bytes follow in the same order,
/// in chunks of any size. Checksums are taken from what is written, on the way.
public final class SafetensorsWriter implements AutoCloseable {
    /// Chunks are written in pieces of this many bytes; of memory on the Java heap, each piece is copied
    /// first.
    private static final int PIECE = 4 << 20;

    /// A tensor to be written.
    public record Entry(String name, DType dtype, Shape shape) {
        public long bytes() {
            return Math.multiplyExact(shape.elements(), dtype.bytes());
        }
    }

    private final FileChannel channel;
    private final List<Entry> entries;
    private final Map<String, Integer> checksums = new LinkedHashMap<>();
    private final CRC32C fileChecksum = new CRC32C();
    private final CRC32C tensorChecksum = new CRC32C();
    private ByteBuffer staging = ByteBuffer.allocate(0);
    private int current;
    private long written;
    private long bytes;
    private boolean finished;

    private SafetensorsWriter(FileChannel channel, List<Entry> entries) {
        this.channel = channel;
        this.entries = entries;
    }

    /// Creates a file, which must not exist yet, and writes its header.
    public static SafetensorsWriter create(Path path, List<Entry> entries) throws IOException {
        byte[] header = header(entries);
        FileChannel channel = FileChannel.open(path, StandardOpenOption.WRITE, StandardOpenOption.CREATE_NEW);
        var writer = new SafetensorsWriter(channel, List.copyOf(entries));
        try {
            var buffer = ByteBuffer.allocateDirect(8 + header.length).order(ByteOrder.LITTLE_ENDIAN);
            writer.put(buffer.putLong(header.length).put(header).flip());
            writer.skipComplete();
            return writer;
        } catch (IOException | RuntimeException e) {
            channel.close();
            throw e;
        }
    }

    /// Appends bytes of the tensor whose turn it is.
    ///
    /// @param name  that tensor
    /// @param chunk little-endian elements in row-major order, on or off the Java heap
    public void write(String name, MemorySegment chunk) throws IOException {
        if (current == entries.size() || !entries.get(current).name.equals(name)) {
            throw new IllegalStateException(name + " is not the tensor to be written next");
        }
        if (chunk.byteSize() > entries.get(current).bytes() - written) {
            throw new IllegalArgumentException("more bytes than tensor " + name + " has");
        }
        for (long at = 0; at < chunk.byteSize(); at += PIECE) {
            MemorySegment piece = chunk.asSlice(at, Math.min(PIECE, chunk.byteSize() - at));
            ByteBuffer buffer = piece.isNative() ? piece.asByteBuffer() : staged(piece);
            tensorChecksum.update(buffer.duplicate());
            put(buffer);
        }
        written += chunk.byteSize();
        skipComplete();
    }

    /// Ends the file: all tensors must be complete. When this returns, the bytes are on the disk.
    public void finish() throws IOException {
        if (current < entries.size()) {
            throw new IllegalStateException("tensor " + entries.get(current).name + " is incomplete");
        }
        channel.force(true);
        finished = true;
    }

    /// Closes the file, which is worth nothing unless [#finish] came before.
    @Override
    public void close() throws IOException {
        channel.close();
    }

    /// The size of the finished file.
    public long bytes() {
        return bytes;
    }

    /// The CRC-32C of the finished file.
    public int checksum() {
        if (!finished) {
            throw new IllegalStateException("the file is not finished");
        }
        return (int) fileChecksum.getValue();
    }

    /// The CRC-32C of every tensor written so far.
    public Map<String, Integer> tensorChecksums() {
        return Map.copyOf(checksums);
    }

    private void skipComplete() {
        while (current < entries.size() && written == entries.get(current).bytes()) {
            checksums.put(entries.get(current).name, (int) tensorChecksum.getValue());
            tensorChecksum.reset();
            written = 0;
            current++;
        }
    }

    private ByteBuffer staged(MemorySegment piece) {
        if (staging.capacity() == 0) {
            staging = ByteBuffer.allocateDirect(PIECE);
        }
        MemorySegment.ofBuffer(staging.clear()).copyFrom(piece);
        return staging.limit((int) piece.byteSize());
    }

    private void put(ByteBuffer buffer) throws IOException {
        fileChecksum.update(buffer.duplicate());
        bytes += buffer.remaining();
        while (buffer.hasRemaining()) {
            channel.write(buffer);
        }
    }

    private static byte[] header(List<Entry> entries) {
        ObjectNode json = JsonFields.newObject();
        json.putObject(SafetensorsHeader.METADATA).put("format", "pt");
        long at = 0;
        for (Entry entry : entries) {
            if (json.has(entry.name)) {
                throw new IllegalArgumentException("two tensors " + entry.name);
            }
            ObjectNode tensor = json.putObject(entry.name);
            tensor.put("dtype", entry.dtype.name());
            var shape = tensor.putArray("shape");
            for (long size : entry.shape.sizes()) {
                shape.add(size);
            }
            long end = Math.addExact(at, entry.bytes());
            tensor.putArray("data_offsets").add(at).add(end);
            at = end;
        }
        byte[] text = json.toString().getBytes(StandardCharsets.UTF_8);
        byte[] padded = Arrays.copyOf(text, (text.length + 7) & -8);
        Arrays.fill(padded, text.length, padded.length, (byte) ' ');
        return padded;
    }
}
