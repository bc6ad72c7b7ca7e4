package troika.ffi;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.SymbolLookup;
import java.lang.invoke.MethodHandle;
import java.net.JarURLConnection;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.URL;
import java.net.URLConnection;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.jar.JarEntry;
import org.jspecify.annotations.Nullable;

/// A native library of this process, loaded for good.
///
/// A library is searched for in the folder that the system property `troika.native.dir` names, and then among the
/// resources of the class path; a resource inside a jar is extracted once to the user's cache
/// (`$XDG_CACHE_HOME/troika`, else `~/.cache/troika`; else a temporary folder), under a name with its checksum.
///
/// @param name the file's name, for messages
public record NativeLibrary(String name, SymbolLookup symbols) {
    /// The folder that holds native libraries, where a distribution brings them as files.
    public static final String FOLDER_PROPERTY = "troika.native.dir";

    /// Loads a library, or finds it loaded. Throws UnsatisfiedLinkError, with the places searched, where it is missing.
    ///
    /// @param resourceFolder where it lies on the class path, such as `org/bytedeco/dnnl/linux-x86_64`
    public static NativeLibrary load(String resourceFolder, String fileName) {
        return load(find(resourceFolder, fileName));
    }

    /// Loads a library's file, or finds it loaded. Throws UnsatisfiedLinkError where it cannot be.
    public static NativeLibrary load(Path file) {
        try {
            return new NativeLibrary(
                    String.valueOf(file.getFileName()), SymbolLookup.libraryLookup(file, Arena.global()));
        } catch (IllegalArgumentException e) {
            throw unsatisfied("cannot load " + file + ": is it a library for this system?", e);
        }
    }

    /// A handle of the C function `function`. Pointers may be described as JAVA_LONG.
    public MethodHandle function(
            String function, @Nullable MemoryLayout result, MemoryLayout[] arguments, Linker.Option... options) {
        var symbol = symbols.find(function)
                .orElseThrow(() -> new UnsatisfiedLinkError(name + " has no function " + function));
        FunctionDescriptor descriptor =
                result == null ? FunctionDescriptor.ofVoid(arguments) : FunctionDescriptor.of(result, arguments);
        return Linker.nativeLinker().downcallHandle(symbol, descriptor, options);
    }

    /// The file of a library, extracted if need be.
    static Path find(String resourceFolder, String fileName) {
        String folder = System.getProperty(FOLDER_PROPERTY);
        if (folder != null) {
            Path file = Path.of(folder, fileName);
            if (Files.isRegularFile(file)) {
                return file.toAbsolutePath();
            }
        }
        String resource = resourceFolder + "/" + fileName;
        URL url = NativeLibrary.class.getClassLoader().getResource(resource);
        if (url == null) {
            throw new UnsatisfiedLinkError(fileName + " was found neither in the folder of -D" + FOLDER_PROPERTY + " ("
                    + folder + ") nor on the class path as " + resource);
        }
        try {
            return url.getProtocol().equals("file") ? Path.of(new URI(url.toString())) : extract(url, fileName);
        } catch (IOException | URISyntaxException e) {
            throw unsatisfied("cannot extract " + resource + ": " + e.getMessage(), e);
        }
    }

    private static Path extract(URL url, String fileName) throws IOException {
        URLConnection connection = url.openConnection();
        connection.setUseCaches(false);
        long size = connection.getContentLengthLong();
        String version = Long.toHexString(size);
        if (connection instanceof JarURLConnection jar) {
            JarEntry entry = jar.getJarEntry();
            version = Long.toHexString(entry.getCrc()) + "-" + version;
        }
        IOException failure = new IOException("no folder to extract to");
        for (Path root : cacheFolders()) {
            Path folder = root.resolve(version);
            Path file = folder.resolve(fileName);
            try {
                if (Files.isRegularFile(file) && Files.size(file) == size) {
                    closeQuietly(connection);
                    return file;
                }
                Files.createDirectories(folder);
                // Written beside and renamed: processes that start together must never see half a library.
                Path partial = Files.createTempFile(folder, fileName, ".partial");
                try (InputStream in = url.openStream()) {
                    Files.copy(in, partial, StandardCopyOption.REPLACE_EXISTING);
                    Files.move(partial, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
                } finally {
                    Files.deleteIfExists(partial);
                }
                closeQuietly(connection);
                return file;
            } catch (IOException | UncheckedIOException e) {
                failure = e instanceof IOException io ? io : new IOException(e);
            }
        }
        throw failure;
    }

    private static void closeQuietly(URLConnection connection) throws IOException {
        if (connection instanceof JarURLConnection jar) {
            jar.getJarFile().close();
        }
    }

    private static List<Path> cacheFolders() {
        String cache = System.getenv("XDG_CACHE_HOME");
        Path user = cache != null && !cache.isEmpty()
                ? Path.of(cache)
                : Path.of(System.getProperty("user.home", ""), ".cache");
        Path temporary =
                Path.of(System.getProperty("java.io.tmpdir", ""), "troika-" + System.getProperty("user.name", ""));
        return List.of(user.resolve("troika").resolve("native"), temporary.resolve("native"));
    }

    private static UnsatisfiedLinkError unsatisfied(String message, Throwable cause) {
        UnsatisfiedLinkError error = new UnsatisfiedLinkError(message);
        error.initCause(cause);
        return error;
    }
}
