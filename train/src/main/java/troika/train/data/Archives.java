package troika.train.data;

import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.function.Consumer;
import java.util.zip.ZipEntry;
import java.util.zip.ZipException;
import java.util.zip.ZipFile;
import troika.tensor.UserException;

/// Text entries of zip and jar files, read in place: nothing is ever extracted, so paths in them can do no harm.
/// Archives may be hostile: what they inflate to is metered against what they hold.
final class Archives {
    /// Text and source code shrink by 3 to 20; deflate could by 1032.
    private static final long MAX_ENTRY_RATIO = 200;
    private static final long MAX_TOTAL_RATIO = 100;
    /// Below these sizes no ratio is suspicious.
    private static final long FREE_ENTRY = 1 << 20;
    private static final long FREE_TOTAL = 64 << 20;

    private Archives() {}

    /// Reads the text entries (those a folder would give) sorted by name; documents are named `name!/entry`.
    ///
    /// @param roots if not empty, only entries below these top folders, folder after folder
    static void read(Path file, String name, List<String> roots, Consumer<Document> sink) throws IOException {
        try (ZipFile zip = new ZipFile(file.toFile())) {
            long size = Files.size(file);
            Meter total = total(file);
            for (ZipEntry entry : entries(zip, file, roots)) {
                read(zip, entry, file, size, name + "!/" + entry.getName(), total, sink);
            }
        } catch (ZipException e) {
            throw damaged(file, e);
        }
    }

    /// Counts what a whole file inflates to.
    static Meter total(Path file) throws IOException {
        return new Meter(Math.max(FREE_TOTAL, MAX_TOTAL_RATIO * Files.size(file)));
    }

    private static UserException damaged(Path file, Exception e) {
        return new UserException(
                "%s cannot be read as a zip file (%s): it is damaged, encrypted or of another kind."
                        .formatted(file, Text.reason(e)),
                e);
    }

    private static List<ZipEntry> entries(ZipFile zip, Path file, List<String> roots) {
        List<ZipEntry> entries = new ArrayList<>();
        try {
            zip.stream()
                    .filter(entry -> !entry.isDirectory()
                            && Kinds.visible(entry.getName())
                            && Kinds.streamable(entry.getName())
                            && (roots.isEmpty() || roots.contains(root(entry.getName()))))
                    .forEach(entries::add);
        } catch (IllegalArgumentException | UncheckedIOException e) { // names in no known encoding
            throw damaged(file, e);
        }
        entries.sort(Comparator.comparingInt((ZipEntry e) -> roots.indexOf(root(e.getName())))
                .thenComparing(ZipEntry::getName));
        return entries;
    }

    private static String root(String path) {
        int slash = path.indexOf('/');
        return slash < 0 ? "" : path.substring(0, slash);
    }

    private static void read(
            ZipFile zip, ZipEntry entry, Path file, long fileSize, String name, Meter total, Consumer<Document> sink)
            throws IOException {
        Kinds.Kind kind = Kinds.of(entry.getName());
        // The directory's sizes may lie: a lie about the compressed size cannot exceed the file's, and the meters
        // count what really comes out.
        long held = Math.clamp(entry.getCompressedSize(), 0, fileSize);
        Meter own = new Meter(Math.max(FREE_ENTRY, MAX_ENTRY_RATIO * held));
        if (entry.getSize() > own.limit) {
            throw bomb(file, entry);
        }
        if (kind == Kinds.Kind.SOURCE && entry.getSize() > Kinds.MAX_SOURCE_BYTES) {
            return;
        }
        try (InputStream stream = zip.getInputStream(entry)) {
            if (stream == null) {
                throw new ZipException("no entry " + entry.getName());
            }
            InputStream in = new FilterInputStream(stream) {
                @Override
                public int read() throws IOException {
                    byte[] one = new byte[1];
                    return read(one, 0, 1) < 0 ? -1 : one[0] & 0xFF;
                }

                @Override
                public int read(byte[] bytes, int offset, int length) throws IOException {
                    int n = super.read(bytes, offset, length);
                    if (n > 0 && (own.exceededBy(n) || total.exceededBy(n))) {
                        throw bomb(file, entry);
                    }
                    return n;
                }
            };
            if (kind == Kinds.Kind.JSON_LINES) {
                JsonLines.read(in, name, file + ", " + Text.shown(entry.getName()), sink);
            } else {
                var _ = TextReader.read(in, name, sink);
            }
        }
    }

    private static UserException bomb(Path file, ZipEntry entry) {
        return new UserException(
                "%s inflates to absurdly much at %s: it looks like a zip bomb, leave it out or give its files unpacked."
                        .formatted(file, Text.shown(entry.getName())));
    }

    /// Says when more has come out than a file of its size can mean well.
    static final class Meter {
        private final long limit;
        private long used;

        private Meter(long limit) {
            this.limit = limit;
        }

        boolean exceededBy(long n) {
            used += n;
            return used > limit;
        }
    }
}
