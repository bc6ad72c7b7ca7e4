package troika.train.data;

import com.github.luben.zstd.Zstd;
import dev.hardwood.metadata.CompressionCodec;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.zip.GZIPOutputStream;
import net.jpountz.lz4.LZ4Factory;
import org.xerial.snappy.Snappy;

/// A Parquet file of one required column "text" in one page, whose headers say what a test wants.
///
/// @param page as it lies in the file, compressed
/// @param claimed what the page's header says of its size before compression
/// @param columnClaimed what the column's metadata say of it
record ParquetFile(CompressionCodec codec, int rows, byte[] page, int claimed, long columnClaimed) {
    private static final int I32 = 5;
    private static final int I64 = 6;
    private static final int BINARY = 8;
    private static final int LIST = 9;
    private static final int STRUCT = 12;
    private static final byte[] MAGIC = "PAR1".getBytes(StandardCharsets.US_ASCII);

    static ParquetFile of(CompressionCodec codec, List<String> texts) throws IOException {
        byte[] plain = plain(texts);
        return new ParquetFile(codec, texts.size(), compress(codec, plain), plain.length, plain.length);
    }

    ParquetFile claims(int bytes) {
        return new ParquetFile(codec, rows, page, bytes, columnClaimed);
    }

    ParquetFile columnClaims(long bytes) {
        return new ParquetFile(codec, rows, page, claimed, bytes);
    }

    ParquetFile page(byte[] other) {
        return new ParquetFile(codec, rows, other, claimed, columnClaimed);
    }

    /// Values in Parquet's encoding PLAIN: each its length, then its bytes.
    static byte[] plain(List<String> texts) {
        var out = new ByteArrayOutputStream();
        for (String text : texts) {
            byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
            out.writeBytes(ByteBuffer.allocate(4)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putInt(bytes.length)
                    .array());
            out.writeBytes(bytes);
        }
        return out.toByteArray();
    }

    static byte[] compress(CompressionCodec codec, byte[] plain) throws IOException {
        return switch (codec) {
            case UNCOMPRESSED -> plain;
            case SNAPPY -> Snappy.compress(plain);
            case ZSTD -> Zstd.compress(plain);
            case LZ4_RAW -> LZ4Factory.fastestInstance().fastCompressor().compress(plain);
            case LZ4 -> { // Hadoop's frame: both sizes before each block
                byte[] block = compress(CompressionCodec.LZ4_RAW, plain);
                yield ByteBuffer.allocate(8 + block.length)
                        .putInt(plain.length)
                        .putInt(block.length)
                        .put(block)
                        .array();
            }
            case GZIP -> {
                var out = new ByteArrayOutputStream();
                try (var gzip = new GZIPOutputStream(out)) {
                    gzip.write(plain);
                }
                yield out.toByteArray();
            }
            case BROTLI, LZO -> throw new IllegalArgumentException(codec + " is not written here");
        };
    }

    byte[] bytes() {
        var file = new ByteArrayOutputStream();
        file.writeBytes(MAGIC);
        byte[] header = new Thrift()
                .integer(1, I32, 0)
                .integer(2, I32, claimed)
                .integer(3, I32, page.length)
                .struct(
                        5,
                        new Thrift()
                                .integer(1, I32, rows)
                                .integer(2, I32, 0)
                                .integer(3, I32, 3)
                                .integer(4, I32, 3))
                .bytes();
        file.writeBytes(header);
        file.writeBytes(page);
        long held = (long) header.length + page.length;
        Thrift column = new Thrift()
                .integer(1, I32, 6)
                .list(2, I32, new byte[] {0})
                .list(3, BINARY, text("text"))
                .integer(4, I32, codec.ordinal())
                .integer(5, I64, rows)
                .integer(6, I64, columnClaimed)
                .integer(7, I64, held)
                .integer(9, I64, MAGIC.length);
        Thrift chunk = new Thrift().integer(2, I64, MAGIC.length).struct(3, column);
        Thrift group = new Thrift()
                .list(1, STRUCT, chunk.bytes())
                .integer(2, I64, columnClaimed)
                .integer(3, I64, rows);
        byte[] root = new Thrift().binary(4, "schema").integer(5, I32, 1).bytes();
        byte[] leaf = new Thrift()
                .integer(1, I32, 6)
                .integer(3, I32, 0)
                .binary(4, "text")
                .integer(6, I32, 0)
                .bytes();
        byte[] footer = new Thrift()
                .integer(1, I32, 1)
                .list(2, STRUCT, root, leaf)
                .integer(3, I64, rows)
                .list(4, STRUCT, group.bytes())
                .bytes();
        file.writeBytes(footer);
        file.writeBytes(ByteBuffer.allocate(4)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putInt(footer.length)
                .array());
        file.writeBytes(MAGIC);
        return file.toByteArray();
    }

    private static byte[] text(String text) {
        var out = new ByteArrayOutputStream();
        varint(out, text.length());
        out.writeBytes(text.getBytes(StandardCharsets.US_ASCII));
        return out.toByteArray();
    }

    private static void varint(ByteArrayOutputStream out, long value) {
        long rest = value;
        while ((rest & ~0x7fL) != 0) {
            out.write((int) ((rest & 0x7f) | 0x80));
            rest >>>= 7;
        }
        out.write((int) rest);
    }

    /// A struct in Thrift's compact protocol, its fields in rising order.
    private static final class Thrift {
        private final ByteArrayOutputStream out = new ByteArrayOutputStream();
        private int last;

        private void field(int id, int type) {
            out.write(((id - last) << 4) | type);
            last = id;
        }

        Thrift integer(int id, int type, long value) {
            field(id, type);
            varint(out, (value << 1) ^ (value >> 63));
            return this;
        }

        Thrift binary(int id, String text) {
            field(id, BINARY);
            out.writeBytes(text(text));
            return this;
        }

        Thrift struct(int id, Thrift struct) {
            field(id, STRUCT);
            out.writeBytes(struct.bytes());
            return this;
        }

        Thrift list(int id, int type, byte[]... elements) {
            field(id, LIST);
            out.write((elements.length << 4) | type);
            for (byte[] element : elements) {
                out.writeBytes(element);
            }
            return this;
        }

        byte[] bytes() {
            return ByteBuffer.allocate(out.size() + 1).put(out.toByteArray()).array();
        }
    }
}
