package troika.train.data;

import com.github.luben.zstd.util.Native;
import dev.hardwood.metadata.CompressionCodec;
import java.io.IOException;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.util.Arrays;
import org.xerial.snappy.SnappyApi;
import org.xerial.snappy.SnappyNative;

/// The libraries behind Parquet's compressions, which Hardwood finds by their names.
final class ParquetCodecs {
    private ParquetCodecs() {}

    /// Makes a codec ready, before Hardwood needs it in a thread of its own and waits there.
    ///
    /// @return false where it is not supported
    /// @throws LinkageError where its library cannot be loaded
    static boolean ready(CompressionCodec codec) {
        return switch (codec) {
            case UNCOMPRESSED, GZIP, LZ4, LZ4_RAW -> true;
            case SNAPPY -> BoundedSnappy.INSTALLED;
            case ZSTD -> {
                Native.load();
                yield true;
            }
            case BROTLI, LZO -> false;
        };
    }

    /// Snappy that looks at the destination's size. The library's own believes the length at the head of the
    /// compressed data, which in a damaged page may exceed the page, and writes on behind the buffer.
    private static final class BoundedSnappy extends SnappyNative {
        private static final String LOADER = "org.xerial.snappy.SnappyLoader";
        private static final String SNAPPY = "org.xerial.snappy.Snappy";
        static final boolean INSTALLED = install();

        private static boolean install() {
            try {
                call(LOADER, "loadSnappyApi"); // the native library
                call(LOADER, "setSnappyApi", new BoundedSnappy());
                call(SNAPPY, "init"); // which has its own reference
                return true;
            } catch (ReflectiveOperationException e) {
                throw new LinkageError("snappy-java is of another version or cannot load its native library", e);
            }
        }

        private static void call(String name, String method, SnappyApi... arguments)
                throws ReflectiveOperationException {
            Class<?>[] types = new Class<?>[arguments.length];
            Arrays.fill(types, SnappyApi.class);
            Method found = Class.forName(name).getDeclaredMethod(method, types);
            found.setAccessible(true);
            found.invoke(null, (Object[]) arguments);
        }

        @Override
        public int rawUncompress(ByteBuffer in, int start, int length, ByteBuffer out, int to) throws IOException {
            int size = uncompressedLength(in, start, length);
            if (size < 0 || size > out.limit() - to) { // below 0: 2 GiB or more
                throw new IOException("Snappy: " + size + " bytes for a page of " + (out.limit() - to));
            }
            return super.rawUncompress(in, start, length, out, to);
        }
    }
}
