package troika.train.data;

import java.io.Closeable;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.zip.CRC32C;

/// Writes a file of little-endian integers with its checksum, and maps such a file.
final class TokenFile implements Closeable {
    private static final int BUFFER = 1 << 20;

    private final FileChannel channel;
    private final ByteBuffer buffer = ByteBuffer.allocateDirect(BUFFER).order(ByteOrder.LITTLE_ENDIAN);
    private final CRC32C crc = new CRC32C();

    TokenFile(Path file) throws IOException {
        channel = FileChannel.open(file, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
    }

    /// Appends the low `bytes` (2, 4 or 8) of a value.
    void append(long value, int bytes) throws IOException {
        if (buffer.remaining() < Long.BYTES) {
            flush();
        }
        switch (bytes) {
            case Short.BYTES -> buffer.putShort((short) value);
            case Integer.BYTES -> buffer.putInt((int) value);
            default -> buffer.putLong(value);
        }
    }

    private void flush() throws IOException {
        buffer.flip();
        crc.update(buffer.duplicate());
        while (buffer.hasRemaining()) {
            channel.write(buffer);
        }
        buffer.clear();
    }

    /// Puts all on the disk; returns the checksum of the file.
    long finish() throws IOException {
        flush();
        channel.force(true);
        return crc.getValue();
    }

    @Override
    public void close() throws IOException {
        channel.close();
    }

    /// Maps a whole file for reading, however large.
    static MemorySegment map(Path file, Arena arena) throws IOException {
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
            return channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena);
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
    }

    /// The CRC-32C of a segment.
    static long checksum(MemorySegment segment) {
        CRC32C crc = new CRC32C();
        long step = 1L << 30; // a ByteBuffer holds less than 2 GiB
        for (long at = 0; at < segment.byteSize(); at += step) {
            crc.update(
                    segment.asSlice(at, Math.min(step, segment.byteSize() - at)).asByteBuffer());
        }
        return crc.getValue();
    }
}
