package troika.ffi;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// Finds libraries that are installed on a machine rather than brought by Troika, such as NVIDIA's.
///
/// Searched are, in this order: the folder of the system property `troika.native.dir`, LD_LIBRARY_PATH, the
/// cache of ldconfig, the usual folders of CUDA and of the system, and the `nvidia` packages of Python
/// installations: those of python3 and python on the PATH, of VIRTUAL_ENV, CONDA_PREFIX, the user and the
/// system. No Python is started.
public final class LibrarySearch {
    private static final Pattern TOOLKIT = Pattern.compile("cuda-(\\d{1,4})(?:\\.(\\d{1,3}))?");
    private static final List<String> SYSTEM = List.of(
            "usr/lib/x86_64-linux-gnu",
            "lib/x86_64-linux-gnu",
            "usr/lib64",
            "usr/lib/wsl/lib",
            "usr/local/nvidia/lib64");

    private final Map<String, String> environment;
    private final @Nullable String nativeFolder;
    private final Path root;
    private final Supplier<List<String>> cacheListing;
    private @Nullable List<Path> folders;
    private @Nullable List<Path> packages;
    private @Nullable List<String> cache;

    /// @param environment variables
    /// @param nativeFolder the folder searched first, or null
    /// @param root what system paths start from
    /// @param cacheListing lines of `ldconfig -p`
    LibrarySearch(
            Map<String, String> environment,
            @Nullable String nativeFolder,
            Path root,
            Supplier<List<String>> cacheListing) {
        this.environment = environment;
        this.nativeFolder = nativeFolder;
        this.root = root;
        this.cacheListing = cacheListing;
    }

    /// A search of this machine.
    public static LibrarySearch ofSystem() {
        return new LibrarySearch(
                System.getenv(),
                System.getProperty(NativeLibrary.FOLDER_PROPERTY),
                Path.of("/"),
                LibrarySearch::ldconfig);
    }

    /// A library and where it was found.
    public record Found(NativeLibrary library, Path file) {}

    /// Loads the first library that can be loaded, as [#find] orders them. Throws UnsatisfiedLinkError with
    /// one sentence where there is none: what is missing, what to do and where it was searched for.
    ///
    /// @param what the library in words, such as "cuBLASLt"
    /// @param remedy what the user can do, such as "install CUDA 13"
    /// @param fileNames in order of preference, such as `libcublasLt.so.13`, `libcublasLt.so.12`
    public Found load(String what, String remedy, List<String> fileNames) {
        return load(what, remedy, fileNames, find(fileNames));
    }

    /// As above, of files that [#find] gave and the caller has put in another order.
    public Found load(String what, String remedy, List<String> fileNames, List<Path> files) {
        String failures = "";
        UnsatisfiedLinkError last = null;
        for (Path file : files) {
            try {
                return new Found(NativeLibrary.load(file), file);
            } catch (UnsatisfiedLinkError e) {
                last = e;
                failures += (failures.isEmpty() ? "" : ", ") + file;
            }
        }
        String names = String.join(" or ", fileNames);
        UnsatisfiedLinkError error = new UnsatisfiedLinkError(
                last == null
                        ? "There is no " + what + " (" + names + ") on this machine: " + remedy + "; searched were "
                                + places() + "."
                        : what + " cannot be loaded from " + failures + ": " + remedy + ".");
        if (last != null) {
            error.initCause(last);
        }
        throw error;
    }

    /// All files of these names, none twice: those of the first name before those of the second, each in
    /// the order of places.
    public List<Path> find(List<String> fileNames) {
        Set<Path> real = new LinkedHashSet<>();
        List<Path> files = new ArrayList<>();
        for (String name : fileNames) {
            for (Path file : candidates(name)) {
                if (Files.isRegularFile(file) && real.add(real(file))) {
                    files.add(file);
                }
            }
        }
        return files;
    }

    private List<Path> candidates(String name) {
        List<Path> files = new ArrayList<>();
        if (nativeFolder != null) {
            files.add(Path.of(nativeFolder).resolve(name).toAbsolutePath());
        }
        for (String folder : paths("LD_LIBRARY_PATH")) {
            files.add(Path.of(folder).resolve(name).toAbsolutePath());
        }
        for (String line : cacheLines()) {
            int arrow = line.indexOf(" => ");
            if (arrow > 0 && line.strip().startsWith(name + " ")) {
                files.add(Path.of(line.substring(arrow + 4).strip()));
            }
        }
        for (Path folder : installed()) {
            files.add(folder.resolve(name));
        }
        for (Path folder : pythonPackages()) {
            for (Path one : list(folder, "*")) {
                files.add(one.resolve("lib").resolve(name));
            }
        }
        return files;
    }

    /// The places in words, for messages.
    public String places() {
        StringBuilder text = new StringBuilder("the folder of -D" + NativeLibrary.FOLDER_PROPERTY + " ("
                + (nativeFolder == null ? "not set" : nativeFolder) + "), LD_LIBRARY_PATH ("
                + environment.getOrDefault("LD_LIBRARY_PATH", "not set") + "), ldconfig's cache");
        for (Path folder : installed()) {
            text.append(", ").append(folder);
        }
        for (Path folder : pythonPackages()) {
            text.append(", ").append(folder).append("/*/lib");
        }
        return text.toString();
    }

    /// CUDA's folders and the system's that exist, the newest CUDA first.
    private List<Path> installed() {
        List<Path> present = folders;
        if (present == null) {
            Set<Path> found = new LinkedHashSet<>();
            List<Path> toolkits = new ArrayList<>(list(root.resolve("usr/local"), "cuda*"));
            toolkits.sort(Comparator.comparingInt(LibrarySearch::version).reversed());
            for (Path toolkit : toolkits) {
                found.add(toolkit.resolve("lib64"));
                found.add(toolkit.resolve("targets/x86_64-linux/lib"));
            }
            for (String folder : SYSTEM) {
                found.add(root.resolve(folder));
            }
            String conda = environment.getOrDefault("CONDA_PREFIX", "");
            if (!conda.isEmpty()) {
                found.add(Path.of(conda, "lib"));
            }
            present = present(found);
            folders = present;
        }
        return present;
    }

    /// 13000 for `cuda-13.0`; the folder without a number is the one that the machine's owner chose, and
    /// first.
    private static int version(Path toolkit) {
        String name = String.valueOf(toolkit.getFileName());
        Matcher matcher = TOOLKIT.matcher(name);
        if (!matcher.matches()) {
            return name.equals("cuda") ? Integer.MAX_VALUE : 0;
        }
        String minor = matcher.group(2);
        return 1000 * Integer.parseInt(matcher.group(1)) + (minor == null ? 0 : Integer.parseInt(minor));
    }

    /// The `nvidia` folders of Python installations.
    private List<Path> pythonPackages() {
        List<Path> present = packages;
        if (present == null) {
            Set<Path> prefixes = new LinkedHashSet<>();
            for (String variable : List.of("VIRTUAL_ENV", "CONDA_PREFIX")) {
                String prefix = environment.getOrDefault(variable, "");
                if (!prefix.isEmpty()) {
                    prefixes.add(Path.of(prefix));
                }
            }
            for (String program : List.of("python3", "python")) {
                for (String folder : paths("PATH")) {
                    Path file = Path.of(folder).resolve(program).toAbsolutePath();
                    if (Files.isExecutable(file)) {
                        // A virtual environment's python is a link to the system's: its own packages lie
                        // beside the link.
                        addPrefix(prefixes, file);
                        addPrefix(prefixes, real(file));
                        break;
                    }
                }
            }
            String home = environment.getOrDefault("HOME", "");
            if (!home.isEmpty()) {
                prefixes.add(Path.of(home, ".local"));
            }
            prefixes.add(root.resolve("usr"));
            prefixes.add(root.resolve("usr/local"));
            Set<Path> found = new LinkedHashSet<>();
            for (Path prefix : prefixes) {
                for (String lib : List.of("lib", "lib64")) {
                    for (Path version : list(prefix.resolve(lib), "python3*")) {
                        found.add(version.resolve("site-packages/nvidia"));
                        found.add(version.resolve("dist-packages/nvidia"));
                    }
                }
            }
            present = present(found);
            packages = present;
        }
        return present;
    }

    /// Those that exist, none twice under two names.
    private static List<Path> present(Set<Path> folders) {
        Set<Path> real = new LinkedHashSet<>();
        return folders.stream()
                .filter(folder -> Files.isDirectory(folder) && real.add(real(folder)))
                .toList();
    }

    private static void addPrefix(Set<Path> prefixes, Path program) {
        Path bin = program.getParent();
        Path prefix = bin == null ? null : bin.getParent();
        if (prefix != null) {
            prefixes.add(prefix);
        }
    }

    private List<String> paths(String variable) {
        return Stream.of(environment.getOrDefault(variable, "").split(":", -1))
                .filter(path -> !path.isEmpty())
                .toList();
    }

    private List<String> cacheLines() {
        List<String> present = cache;
        if (present == null) {
            present = cacheListing.get();
            cache = present;
        }
        return present;
    }

    private static Path real(Path file) {
        try {
            return file.toRealPath();
        } catch (IOException e) {
            return file;
        }
    }

    private static List<Path> list(Path folder, String glob) {
        List<Path> paths = new ArrayList<>();
        try (DirectoryStream<Path> entries = Files.newDirectoryStream(folder, glob)) {
            entries.forEach(paths::add);
        } catch (IOException | UncheckedIOException e) {
            // A folder that is missing or closed to us has nothing for us.
            return List.of();
        }
        paths.sort(null);
        return paths;
    }

    /// What ldconfig prints, which only it can read from its cache; nothing where it is missing.
    private static List<String> ldconfig() {
        for (String program : List.of("ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig")) {
            try {
                Process process = new ProcessBuilder(program, "-p")
                        .redirectError(ProcessBuilder.Redirect.DISCARD)
                        .start();
                try (var reader = process.inputReader()) {
                    List<String> lines = reader.lines().toList();
                    if (process.waitFor(5, TimeUnit.SECONDS) && process.exitValue() == 0) {
                        return lines;
                    }
                }
            } catch (IOException | UncheckedIOException e) {
                // Not under this path: the next is tried.
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                return List.of();
            }
        }
        return List.of();
    }
}
