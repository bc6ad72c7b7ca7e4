package troika.train.checkpoint;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.regex.Pattern;
import troika.tensor.UserException;

/// Finds, checks and removes the checkpoints `<output>/checkpoints/step-N`. Names that begin with a dot are
/// unfinished or doomed and no checkpoints, with one exception: while a checkpoint is replaced by a new one
/// of the same step, the old one waits as `.step-N.old`, and counts for as long as there is no `step-N`.
public final class Checkpoints {
    private static final String OLD = ".old";
    private static final Pattern STEP = Pattern.compile("step-(0|[1-9][0-9]{0,17})");
    private static final Pattern OLD_STEP = Pattern.compile("\\.step-(0|[1-9][0-9]{0,17})\\.old");
    private static final Pattern STALE = Pattern.compile(
            "\\.(?:step-[0-9]+|model)\\.(?:partial|deleted)" + "|\\.\\.(?:step-[0-9]+|model)\\.old\\.deleted");
    private static final Pattern OLD_ANY = Pattern.compile("\\.(step-[0-9]+|model)\\.old");

    private Checkpoints() {}

    /// A checkpoint on disk.
    public record Checkpoint(long step, Path directory) {}

    /// Where the checkpoint of a step belongs.
    public static Path directory(Path output, long step) {
        return output.resolve("checkpoints").resolve("step-" + step);
    }

    /// All checkpoints of a run, the oldest first; none where there is no such directory.
    public static List<Checkpoint> list(Path output) {
        Map<Long, Path> found = new HashMap<>();
        for (Path path : children(output.resolve("checkpoints"))) {
            if (Files.isDirectory(path, LinkOption.NOFOLLOW_LINKS)) {
                String name = path.getFileName().toString();
                var step = STEP.matcher(name);
                var old = OLD_STEP.matcher(name);
                if (step.matches()) {
                    found.put(Long.parseLong(step.group(1)), path);
                } else if (old.matches()) {
                    found.putIfAbsent(Long.parseLong(old.group(1)), path);
                }
            }
        }
        var sorted = new ArrayList<Checkpoint>();
        new TreeMap<>(found).forEach((step, path) -> sorted.add(new Checkpoint(step, path)));
        return sorted;
    }

    /// The checkpoint of the highest step, if there is any. It is not verified.
    public static Optional<Checkpoint> latest(Path output) {
        List<Checkpoint> all = list(output);
        return all.isEmpty() ? Optional.empty() : Optional.of(all.getLast());
    }

    /// Reads a checkpoint's or final model's files and compares them with their checksums.
    ///
    /// @throws UserException where a file is missing, cut short or damaged; names the file, and the
    ///   tensor if it can
    public static void verify(Path directory) {
        Manifest.read(directory).verify(directory);
    }

    /// Deletes the oldest checkpoints but `limit`. A kill in the middle leaves no half checkpoint.
    public static void prune(Path output, int limit) {
        if (limit < 1) {
            throw new IllegalArgumentException("limit " + limit);
        }
        List<Checkpoint> all = list(output);
        for (Checkpoint checkpoint : all.subList(0, Math.max(0, all.size() - limit))) {
            Path target = directory(output, checkpoint.step);
            try {
                // The old one first: it would count again once the new one is gone.
                if (!checkpoint.directory.equals(target)) {
                    Disk.delete(checkpoint.directory);
                } else {
                    Disk.delete(old(target));
                    Disk.delete(target);
                }
            } catch (IOException e) {
                throw new UserException(
                        "The old checkpoint " + target + " could not be deleted: " + e.getMessage() + ".", e);
            }
        }
    }

    /// Removes what killed runs left unfinished, and puts an old checkpoint that was being replaced back in
    /// its place. Must not run beside a writer of the same output.
    public static void cleanUp(Path output) {
        for (Path parent : List.of(output, output.resolve("checkpoints"))) {
            for (Path path : children(parent)) {
                String name = path.getFileName().toString();
                var old = OLD_ANY.matcher(name);
                try {
                    if (STALE.matcher(name).matches()) {
                        Disk.deleteTree(path);
                    } else if (old.matches()) {
                        restore(path.resolveSibling(old.group(1)));
                    }
                } catch (IOException e) {
                    throw new UserException(
                            path + " of an unfinished run could not be removed: " + e.getMessage() + ".", e);
                }
            }
        }
    }

    /// Where the old directory waits while a new one takes its place.
    static Path old(Path target) {
        return Disk.hidden(target, OLD);
    }

    /// After a kill in the middle of a replacement: the old directory returns, or goes if the new one is in
    /// its place.
    static void restore(Path target) throws IOException {
        Path old = old(target);
        if (Files.exists(old, LinkOption.NOFOLLOW_LINKS)) {
            if (Files.exists(target, LinkOption.NOFOLLOW_LINKS)) {
                Disk.delete(old);
            } else {
                Disk.rename(old, target);
            }
        }
    }

    private static List<Path> children(Path directory) {
        if (!Files.isDirectory(directory)) {
            return List.of();
        }
        try (var stream = Files.list(directory)) {
            return stream.sorted().toList();
        } catch (IOException e) {
            throw new UserException(directory + " cannot be listed: " + e.getMessage() + ".", e);
        }
    }
}
