package troika.train.data;

import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.function.Consumer;

/// Cuts plain text into [Document] parts of bounded size, so that no file has to fit on the heap.
final class TextReader {
    /// The most chars of a part.
    static final int PART = 1 << 20;

    private static final int SNIFFED = 8192;
    private static final int BOM = 0xFEFF;

    private TextReader() {}

    /// Reads one document of UTF-8 (malformed bytes become U+FFFD, a byte order mark is dropped).
    ///
    /// @return false, with nothing delivered, where a NUL among the first bytes says that this is not text
    static boolean read(InputStream stream, String name, Consumer<Document> sink) throws IOException {
        // A buffer of its own, since mark and reset must reach back over all that was sniffed.
        BufferedInputStream in = new BufferedInputStream(stream, SNIFFED);
        in.mark(SNIFFED);
        for (byte b : in.readNBytes(SNIFFED)) {
            if (b == 0) {
                return false;
            }
        }
        in.reset();
        parts(new InputStreamReader(in, StandardCharsets.UTF_8), name, sink);
        return true;
    }

    private static void parts(Reader reader, String name, Consumer<Document> sink) throws IOException {
        char[] buffer = new char[SNIFFED];
        int filled = 0;
        boolean first = true;
        while (true) {
            int n = reader.read(buffer, filled, buffer.length - filled);
            if (n < 0) {
                break;
            }
            if (first && n > 0) {
                first = false;
                if (buffer[0] == BOM) {
                    System.arraycopy(buffer, 1, buffer, 0, --n);
                }
            }
            filled += n;
            if (filled == PART) {
                int cut = cut(buffer, filled);
                sink.accept(new Document(name, new String(buffer, 0, cut), false));
                filled -= cut;
                System.arraycopy(buffer, cut, buffer, 0, filled);
            } else if (filled == buffer.length) {
                buffer = Arrays.copyOf(buffer, Math.min(PART, 4 * buffer.length));
            }
        }
        sink.accept(new Document(name, new String(buffer, 0, filled), true));
    }

    /// Delivers a text that is on the heap already, in the parts that [#read] would make.
    static void split(String text, String name, Consumer<Document> sink) {
        int from = 0;
        while (text.length() - from >= PART) {
            char[] window = new char[PART];
            text.getChars(from, from + PART, window, 0);
            int cut = cut(window, PART);
            sink.accept(new Document(name, text.substring(from, from + cut), false));
            from += cut;
        }
        sink.accept(new Document(name, from == 0 ? text : text.substring(from), true));
    }

    // Where tokenizers cut anyway: before a line that begins with a visible char, else before white space.
    private static int cut(char[] chars, int n) {
        for (int i = n - 1; i > n / 2; i--) {
            if (chars[i - 1] == '\n' && !Character.isWhitespace(chars[i])) {
                return i;
            }
        }
        for (int i = n - 1; i > n / 2; i--) {
            if (Character.isWhitespace(chars[i]) && !Character.isWhitespace(chars[i - 1])) {
                return i;
            }
        }
        return Character.isHighSurrogate(chars[n - 1]) ? n - 1 : n;
    }
}
