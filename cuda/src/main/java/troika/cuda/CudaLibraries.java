package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_INT;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import troika.ffi.LibrarySearch;
import troika.ffi.LibrarySearch.Found;
import troika.ffi.Native;
import troika.ffi.NativeLibrary;
import troika.tensor.UserException;

/// NVIDIA's libraries on this machine, each found once. The driver, NVRTC and cuBLASLt are needed; cuDNN,
/// NVML and NCCL are used where they are there. Each method throws [UserException] where a library that is
/// needed is missing.
final class CudaLibraries {
    private static final LibrarySearch SEARCH = LibrarySearch.ofSystem();
    private static final String DRIVER = "libcuda.so.1";
    private static final List<String> MAJORS = List.of("13", "12");

    /// Of the driver's library alone, so that it can be used while others are loaded.
    private static final Object DRIVER_LOCK = new Object();

    private static @Nullable Found driver;
    private static @Nullable Toolkit toolkit;
    private static @Nullable Found cudnn;
    private static @Nullable Found nvml;
    private static @Nullable Found nccl;
    private static boolean cudnnSearched;
    private static boolean nvmlSearched;
    private static boolean ncclSearched;
    private static int driverVersion;

    private CudaLibraries() {}

    /// Libraries of one CUDA version, where such a pair is there.
    private record Toolkit(Found nvrtc, Found cublasLt) {}

    static NativeLibrary driver() {
        synchronized (DRIVER_LOCK) {
            Found found = driver;
            if (found == null) {
                found = load("NVIDIA driver", "install one for CUDA 12 or newer", List.of(DRIVER));
                driver = found;
            }
            return found.library();
        }
    }

    /// Loads all others on a thread of its own, while the caller starts the driver, say. What is missing is
    /// said where it is used.
    static void loadAhead() {
        Thread.ofPlatform().daemon().name("CUDA's libraries").start(() -> {
            try {
                cublasLt();
                cudnn();
            } catch (RuntimeException | LinkageError e) {
                // The first who uses it meets the same.
            }
        });
    }

    /// 1000 · major + 10 · minor of the newest CUDA that the driver runs. Found by itself: an old driver
    /// has not all functions that [Driver] needs.
    static int driverVersion() {
        synchronized (DRIVER_LOCK) {
            if (driverVersion == 0) {
                MethodHandle function =
                        driver().function("cuDriverGetVersion", JAVA_INT, new MemoryLayout[] {ValueLayout.ADDRESS});
                try (Arena arena = Arena.ofConfined()) {
                    MemorySegment out = arena.allocate(JAVA_INT);
                    Native.check("cuDriverGetVersion", (int) function.invokeExact(out));
                    driverVersion = out.get(JAVA_INT, 0);
                } catch (Throwable e) {
                    throw Native.failed("cuDriverGetVersion", e);
                }
            }
            return driverVersion;
        }
    }

    static synchronized NativeLibrary nvrtc() {
        return toolkit().nvrtc.library();
    }

    static synchronized NativeLibrary cublasLt() {
        return toolkit().cublasLt.library();
    }

    /// cuDNN 9, or null.
    static synchronized @Nullable NativeLibrary cudnn() {
        searchCudnn();
        return cudnn == null ? null : cudnn.library();
    }

    /// NVML, or null.
    static synchronized @Nullable NativeLibrary nvml() {
        if (!nvmlSearched) {
            nvmlSearched = true;
            nvml = optional("libnvidia-ml.so.1");
        }
        return nvml == null ? null : nvml.library();
    }

    /// NCCL, or null.
    static synchronized @Nullable NativeLibrary nccl() {
        if (!ncclSearched) {
            ncclSearched = true;
            nccl = optional("libnccl.so.2");
        }
        return nccl == null ? null : nccl.library();
    }

    /// What libraries read from the environment, set before they are loaded; values that the user has set
    /// stay.
    ///
    /// - The most hardware queues a card: the driver has 8 by default, and streams that share a queue wait
    ///   for each other although nothing of theirs depends. A rank has up to seven lanes, several ranks may
    ///   share a card, and a copy that waits for another rank would hold up a product behind it.
    /// - No NVLink multicast in NCCL: where it goes wrong it can take a machine's cards out of service.
    static void setEnvironment() {
        MethodHandle function = new NativeLibrary("libc", Linker.nativeLinker().defaultLookup())
                .function("setenv", JAVA_INT, new MemoryLayout[] {ValueLayout.ADDRESS, ValueLayout.ADDRESS, JAVA_INT});
        try (Arena arena = Arena.ofConfined()) {
            for (String[] variable :
                    new String[][] {{"CUDA_DEVICE_MAX_CONNECTIONS", "32"}, {"NCCL_NVLS_ENABLE", "0"}}) {
                Native.check("setenv", (int)
                        function.invokeExact(arena.allocateFrom(variable[0]), arena.allocateFrom(variable[1]), 0));
            }
        } catch (Throwable e) {
            throw Native.failed("setenv", e);
        }
    }

    /// Where the libraries were found that have been asked for so far, by their names in words.
    static synchronized Map<String, Path> files() {
        Map<String, Path> files = new LinkedHashMap<>();
        put(files, "driver", driver);
        put(files, "NVRTC", toolkit == null ? null : toolkit.nvrtc);
        put(files, "cuBLASLt", toolkit == null ? null : toolkit.cublasLt);
        put(files, "cuDNN", cudnn);
        put(files, "NVML", nvml);
        put(files, "NCCL", nccl);
        return files;
    }

    private static void put(Map<String, Path> files, String name, @Nullable Found found) {
        if (found != null) {
            files.put(name, found.file());
        }
    }

    /// Whether a driver is there, though it may be one that does not load or has no card.
    static boolean hasDriver() {
        return !SEARCH.find(List.of(DRIVER)).isEmpty();
    }

    private static Toolkit toolkit() {
        Toolkit present = toolkit;
        if (present == null) {
            List<String> usable = majors(driverVersion());
            List<String> majors = usable.stream()
                    .filter(major ->
                            !SEARCH.find(names("libnvrtc.so.", List.of(major))).isEmpty()
                                    && !SEARCH.find(names("libcublasLt.so.", List.of(major)))
                                            .isEmpty())
                    .limit(1)
                    .toList();
            if (majors.isEmpty()) {
                majors = usable;
            }
            String remedy = "install CUDA " + String.join(" or ", usable) + ", or its libraries alone (pip install "
                    + (usable.contains("13")
                            ? "nvidia-cuda-nvrtc nvidia-cublas)"
                            : "nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12)");
            List<String> nvrtcNames = names("libnvrtc.so.", majors);
            List<Path> nvrtcFiles = SEARCH.find(nvrtcNames);
            if (!nvrtcFiles.isEmpty()) {
                preloadBuiltins(nvrtcFiles.getFirst());
            }
            Found nvrtc = load("NVRTC", remedy, nvrtcNames);
            Found cublasLt = load("cuBLASLt", remedy, names("libcublasLt.so.", majors));
            present = new Toolkit(nvrtc, cublasLt);
            toolkit = present;
        }
        return present;
    }

    private static List<String> names(String prefix, List<String> majors) {
        return majors.stream().map(major -> prefix + major).toList();
    }

    /// The CUDA versions whose libraries a driver can run, the best first.
    static List<String> majors(int driverVersion) {
        return MAJORS.stream()
                .filter(major -> Integer.parseInt(major) <= driverVersion / 1000)
                .toList();
    }

    /// NVRTC opens this library by its name alone, which the system may not find in a folder of Python's; a
    /// library of that name that is loaded already is taken.
    private static void preloadBuiltins(Path nvrtc) {
        try (DirectoryStream<Path> beside =
                Files.newDirectoryStream(nvrtc.toRealPath().resolveSibling(""), "libnvrtc-builtins.so.*")) {
            beside.forEach(NativeLibrary::load);
        } catch (IOException | UnsatisfiedLinkError e) {
            // NVRTC may find it by itself; if not, it says so.
        }
    }

    private static void searchCudnn() {
        if (!cudnnSearched) {
            // It needs cuBLASLt and NVRTC, and takes those that are loaded.
            toolkit();
            cudnnSearched = true;
            cudnn = optional("libcudnn.so.9");
        }
    }

    /// The newest of the libraries of that name, where there are several.
    private static @Nullable Found optional(String name) {
        List<String> names = List.of(name);
        List<Path> files = SEARCH.find(names).stream()
                .sorted(Comparator.comparing(CudaLibraries::version, Arrays::compare)
                        .reversed())
                .toList();
        try {
            return SEARCH.load(name, "", names, files);
        } catch (UnsatisfiedLinkError e) {
            return null;
        }
    }

    /// A library's version: from its file's name, as in libcudnn.so.9.19.0, or else from what Python's
    /// installer wrote beside its packages, as in nvidia_cudnn_cu13-9.19.0.56.dist-info. Empty where
    /// neither tells.
    static int[] version(Path file) {
        try {
            Path real = file.toRealPath();
            String name = real.resolve("").getFileName().toString();
            int[] version = numbers(name.substring(name.indexOf(".so") + 3));
            // site-packages/nvidia/cudnn/lib/libcudnn.so.9
            Path library = real.resolveSibling("").getParent();
            Path packages = library == null || library.getParent() == null
                    ? null
                    : library.getParent().getParent();
            if (version.length > 1 || library == null || packages == null) {
                return version;
            }
            String pattern = "nvidia_" + library.getFileName() + "*.dist-info";
            try (DirectoryStream<Path> records = Files.newDirectoryStream(packages, pattern)) {
                for (Path record : records) {
                    String text = record.resolve("").getFileName().toString();
                    return numbers(text.substring(text.indexOf('-') + 1, text.length() - ".dist-info".length()));
                }
            }
            return version;
        } catch (IOException e) {
            return new int[0];
        }
    }

    private static int[] numbers(String text) {
        return Pattern.compile("\\d{1,9}")
                .matcher(text)
                .results()
                .mapToInt(match -> Integer.parseInt(match.group()))
                .toArray();
    }

    private static Found load(String what, String remedy, List<String> names) {
        try {
            return SEARCH.load(what, remedy, names);
        } catch (UnsatisfiedLinkError e) {
            throw new UserException(String.valueOf(e.getMessage()), e);
        }
    }
}
