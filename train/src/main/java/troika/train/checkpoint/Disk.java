package troika.train.checkpoint;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import org.jspecify.annotations.Nullable;
import troika.tensor.UserException;

/// What directories of checkpoints ask of the file system.
final class Disk {
    private Disk() {}

    /// The sentence for a failure to write.
    static UserException failure(Path target, IOException e) {
        String reason = String.valueOf(e.getMessage());
        boolean full = reason.contains("No space left") || reason.contains("quota exceeded");
        return new UserException(
                full
                        ? "The disk is full: " + target
                                + " could not be written; free some space there, or choose another output."
                        : target + " could not be written: " + reason + ".",
                e);
    }

    /// The hidden sibling of a directory, where it waits or goes.
    static Path hidden(Path directory, String suffix) {
        return directory.resolveSibling("." + directory.getFileName() + suffix);
    }

    static void rename(Path from, Path to) throws IOException {
        Files.move(from, to, StandardCopyOption.ATOMIC_MOVE);
    }

    /// Makes a directory's entries, or a file's bytes, durable.
    static void sync(Path path) throws IOException {
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ)) {
            channel.force(true);
        }
    }

    /// Deletes a directory so that a kill in the middle leaves nothing that looks like a checkpoint: it is
    /// renamed first.
    static void delete(Path directory) throws IOException {
        if (Files.exists(directory, LinkOption.NOFOLLOW_LINKS)) {
            Path doomed = hidden(directory, ".deleted");
            deleteTree(doomed);
            rename(directory, doomed);
            deleteTree(doomed);
        }
    }

    /// Deletes a directory that nobody takes for a checkpoint, if it is there; links are removed, not
    /// followed.
    static void deleteTree(Path directory) throws IOException {
        try {
            Files.walkFileTree(directory, new SimpleFileVisitor<>() {
                @Override
                public FileVisitResult visitFile(Path file, BasicFileAttributes attributes) throws IOException {
                    Files.delete(file);
                    return FileVisitResult.CONTINUE;
                }

                @Override
                public FileVisitResult postVisitDirectory(Path visited, @Nullable IOException e) throws IOException {
                    if (e != null) {
                        throw e;
                    }
                    Files.delete(visited);
                    return FileVisitResult.CONTINUE;
                }
            });
        } catch (NoSuchFileException e) {
            // Nothing to delete.
        }
    }
}
