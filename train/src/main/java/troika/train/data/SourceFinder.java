package troika.train.data;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.FileSystemLoopException;
import java.nio.file.FileSystems;
import java.nio.file.FileVisitOption;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.nio.file.PathMatcher;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.EnumSet;
import java.util.List;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;
import java.util.stream.Stream;
import java.util.zip.ZipFile;
import org.jspecify.annotations.Nullable;
import troika.tensor.UserException;

/// From what follows `--data` to files, in an order that does not depend on the file system.
final class SourceFinder {
    static final String JDK_HOME_PROPERTY = "troika.jdk.home";
    private static final Pattern GLOB = Pattern.compile("[*?\\[{]");

    private SourceFinder() {}

    static List<Source> find(String spec, List<Path> jdkHomes) {
        if (spec.equals("jdk") || spec.startsWith("jdk:")) {
            return List.of(jdk(spec, jdkHomes));
        }
        if (spec.isBlank()) {
            throw new UserException("--data was given an empty path: give a file, a folder, a pattern or \"jdk\".");
        }
        try {
            Path path = Path.of(spec);
            if (Files.isDirectory(path)) {
                return folder(path);
            }
            if (Files.exists(path)) {
                return List.of(file(path));
            }
        } catch (InvalidPathException e) {
            throw new UserException("The data path \"%s\" is not a path: check it.".formatted(Text.shown(spec)), e);
        }
        if (GLOB.matcher(spec).find()) {
            return glob(spec);
        }
        throw new UserException("The data path %s does not exist: check it for typing errors.".formatted(spec));
    }

    private static Source file(Path path) {
        if (!Files.isRegularFile(path)) {
            throw new UserException(
                    "The data path %s is neither a file nor a folder (data are read twice, so pipes cannot serve): save it to a file."
                            .formatted(path));
        }
        return new Source(fileName(path), path, Kinds.of(fileName(path)), true, List.of());
    }

    private static String fileName(Path path) {
        Path name = path.getFileName();
        return name == null ? path.toString() : name.toString();
    }

    private static List<Source> folder(Path folder) {
        List<Source> sources = walk(folder, null);
        if (sources.isEmpty()) {
            throw new UserException(
                    "The folder %s holds no text, source, .jsonl or .parquet files (hidden files and archives in folders are not read): give one that does."
                            .formatted(folder));
        }
        return sources;
    }

    private static List<Source> glob(String spec) {
        int special = indexOfGlob(spec);
        int slash = spec.lastIndexOf('/', special);
        Path base = Path.of(slash < 0 ? "." : slash == 0 ? "/" : spec.substring(0, slash));
        String pattern = spec.substring(slash + 1);
        if (!Files.isDirectory(base)) {
            throw new UserException("The folder %s of the pattern %s does not exist: check it for typing errors."
                    .formatted(base, spec));
        }
        PathMatcher matcher;
        try {
            // Java's ** between slashes wants at least one folder; everyone else's takes none as well.
            String lenient = pattern.replaceFirst("^\\*\\*/", "{,**/}").replace("/**/", "/{,**/}");
            matcher = FileSystems.getDefault().getPathMatcher("glob:" + lenient);
        } catch (PatternSyntaxException e) {
            throw new UserException(
                    "The pattern %s is malformed (%s): correct it.".formatted(spec, Text.shown(e.getDescription())), e);
        }
        List<Source> sources = walk(base, matcher);
        if (sources.isEmpty()) {
            throw new UserException("No file matches the pattern %s: check it.".formatted(spec));
        }
        return sources;
    }

    private static int indexOfGlob(String spec) {
        var matcher = GLOB.matcher(spec);
        return matcher.find() ? matcher.start() : spec.length();
    }

    /// Files below a folder, sorted by relative path: all text, or what a pattern matches.
    private static List<Source> walk(Path base, @Nullable PathMatcher matcher) {
        List<Source> sources = new ArrayList<>();
        var visitor = new SimpleFileVisitor<Path>() {
            @Override
            public FileVisitResult preVisitDirectory(Path directory, BasicFileAttributes attributes) {
                boolean hidden = !directory.equals(base) && fileName(directory).startsWith(".");
                return hidden ? FileVisitResult.SKIP_SUBTREE : FileVisitResult.CONTINUE;
            }

            @Override
            public FileVisitResult visitFile(Path file, BasicFileAttributes attributes) {
                Path relative = base.relativize(file);
                Kinds.Kind kind = Kinds.of(fileName(file));
                if (attributes.isRegularFile()
                        && !fileName(file).startsWith(".")
                        && (matcher == null ? wanted(kind, attributes.size()) : matcher.matches(relative))) {
                    sources.add(new Source(relative.toString(), file, kind, false, List.of()));
                }
                return FileVisitResult.CONTINUE;
            }

            @Override
            public FileVisitResult visitFileFailed(Path file, IOException e) {
                if (e instanceof FileSystemLoopException) {
                    return FileVisitResult.CONTINUE; // a link to a folder around it adds nothing
                }
                throw new UncheckedIOException(file.toString(), e);
            }
        };
        try {
            Files.walkFileTree(base, EnumSet.of(FileVisitOption.FOLLOW_LINKS), Integer.MAX_VALUE, visitor);
        } catch (IOException | UncheckedIOException e) {
            throw new UserException(
                    "The folder %s cannot be searched for data (%s): check its permissions."
                            .formatted(base, Text.reason(e)),
                    e);
        }
        sources.sort(Comparator.comparing(Source::name));
        return sources;
    }

    private static boolean wanted(Kinds.Kind kind, long size) {
        return switch (kind) {
            case TEXT, JSON_LINES, PARQUET -> true;
            case SOURCE -> size <= Kinds.MAX_SOURCE_BYTES;
            case ARCHIVE, UNKNOWN -> false;
        };
    }

    /// Where a JDK may be: the property's (a launcher on a trimmed runtime sets it), the running one, JAVA_HOME's.
    static List<Path> jdkHomes() {
        return Stream.of(
                        System.getProperty(JDK_HOME_PROPERTY, ""),
                        System.getProperty("java.home", ""),
                        System.getenv().getOrDefault("JAVA_HOME", ""))
                .filter(home -> !home.isBlank())
                .map(Path::of)
                .toList();
    }

    private static Source jdk(String spec, List<Path> homes) {
        for (Path home : homes) {
            Path zip = home.resolve("lib").resolve("src.zip");
            if (Files.isRegularFile(zip)) {
                return new Source("jdk", zip, Kinds.Kind.ARCHIVE, true, modules(spec, zip));
            }
        }
        throw new UserException(
                "The JDK's sources (lib/src.zip) are not installed: install them with the JDK, or give other data with --data, as a folder of source code.");
    }

    private static List<String> modules(String spec, Path zip) {
        if (spec.equals("jdk")) {
            return List.of("java.base");
        }
        List<String> present = new ArrayList<>();
        try (ZipFile file = new ZipFile(zip.toFile())) {
            file.stream()
                    .map(entry -> entry.getName().replaceFirst("/.*", ""))
                    .distinct()
                    .sorted(Comparator.comparing((String m) -> !m.equals("java.base"))
                            .thenComparing(m -> m))
                    .forEach(present::add);
        } catch (IOException e) {
            throw new UserException(
                    "%s cannot be read (%s): install the JDK's sources again.".formatted(zip, Text.reason(e)), e);
        }
        String list = spec.substring("jdk:".length());
        if (list.equals("all")) {
            return present;
        }
        List<String> modules = List.of(list.split(",", -1));
        for (String module : modules) {
            if (!present.contains(module)) {
                throw new UserException(
                        "The data \"%s\" name a module \"%s\" that %s lacks: name others, as java.base, or \"jdk:all\"."
                                .formatted(Text.shown(spec), Text.shown(module), zip));
            }
        }
        return modules;
    }
}
