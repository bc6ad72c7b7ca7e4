package troika.train.data;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.List;
import java.util.function.Consumer;
import troika.tensor.UserException;

/// A file of documents.
///
/// @param name of the file, relative to what the user gave
/// @param named whether the user named this very file, so that skipping it would be a surprise
/// @param roots of an archive: the top folders to read, or none for all
record Source(String name, Path file, Kinds.Kind kind, boolean named, List<String> roots) {
    void read(Consumer<Document> sink) {
        try {
            switch (kind) {
                case PARQUET -> ParquetText.read(file, name, ParquetText.PATIENCE, sink);
                case ARCHIVE -> Archives.read(file, name, roots, sink);
                case JSON_LINES -> {
                    try (InputStream in = Files.newInputStream(file)) {
                        JsonLines.read(in, name, file.toString(), sink);
                    }
                }
                case TEXT, SOURCE, UNKNOWN -> {
                    try (InputStream in = Files.newInputStream(file)) {
                        if (!TextReader.read(in, name, sink) && named) {
                            throw new UserException(
                                    file
                                            + " is not text in UTF-8: give .txt, .jsonl, .parquet, .zip, source files or a folder of them.");
                        }
                    }
                }
            }
        } catch (IOException | UncheckedIOException e) {
            throw unreadable(e);
        }
    }

    /// Adds name and content to a digest, each preceded or followed by its length.
    void digest(MessageDigest digest) {
        frame(digest, name + "\n" + kind + "\n" + roots);
        byte[] buffer = new byte[1 << 16];
        long size = 0;
        try (InputStream in = Files.newInputStream(file)) {
            for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
                digest.update(buffer, 0, n);
                size += n;
            }
        } catch (IOException e) {
            throw unreadable(e);
        }
        digest.update(ByteBuffer.allocate(Long.BYTES).putLong(0, size));
    }

    static void frame(MessageDigest digest, String s) {
        byte[] bytes = s.getBytes(StandardCharsets.UTF_8);
        digest.update(ByteBuffer.allocate(Long.BYTES).putLong(0, bytes.length));
        digest.update(bytes);
    }

    private UserException unreadable(Exception e) {
        return new UserException(
                "%s cannot be read (%s): check the file and its permissions.".formatted(file, Text.reason(e)), e);
    }
}
