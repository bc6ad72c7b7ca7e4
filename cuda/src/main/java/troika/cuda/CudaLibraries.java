package troika.cuda;

import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.ffi.LibrarySearch;
import troika.ffi.LibrarySearch.Found;
import troika.ffi.NativeLibrary;
import troika.tensor.UserException;

/// NVIDIA's libraries on this machine, each found once. The driver, NVRTC and cuBLASLt are needed; cuDNN
/// and NVML are used where they are there. Each method throws [UserException] where a library that is
/// needed is missing.
final class CudaLibraries {
    private static final LibrarySearch SEARCH = LibrarySearch.ofSystem();
    private static final String DRIVER = "libcuda.so.1";
    private static final List<String> MAJORS = List.of("13", "12");

    private static @Nullable Found driver;
    private static @Nullable Toolkit toolkit;
    private static @Nullable Found cudnn;
    private static @Nullable Found nvml;
    private static boolean cudnnSearched;
    private static boolean nvmlSearched;

    private CudaLibraries() {}

    /// Libraries of one CUDA version, where such a pair is there.
    private record Toolkit(Found nvrtc, Found cublasLt) {}

    static synchronized NativeLibrary driver() {
        Found found = driver;
        if (found == null) {
            found = load("NVIDIA driver", "install one for CUDA 12 or newer", List.of(DRIVER));
            driver = found;
        }
        return found.library();
    }

    static synchronized NativeLibrary nvrtc() {
        return toolkit().nvrtc.library();
    }

    static synchronized NativeLibrary cublasLt() {
        return toolkit().cublasLt.library();
    }

    /// cuDNN 9, or null.
    static synchronized @Nullable NativeLibrary cudnn() {
        if (!cudnnSearched) {
            cudnnSearched = true;
            // It needs cuBLASLt and NVRTC, and takes those that are loaded.
            toolkit();
            cudnn = optional("libcudnn.so.9");
        }
        return cudnn == null ? null : cudnn.library();
    }

    static synchronized @Nullable NativeLibrary nvml() {
        if (!nvmlSearched) {
            nvmlSearched = true;
            nvml = optional("libnvidia-ml.so.1");
        }
        return nvml == null ? null : nvml.library();
    }

    /// Where the libraries were found that have been asked for so far, by their names in words.
    static synchronized Map<String, Path> files() {
        Map<String, Path> files = new LinkedHashMap<>();
        put(files, "driver", driver);
        put(files, "NVRTC", toolkit == null ? null : toolkit.nvrtc);
        put(files, "cuBLASLt", toolkit == null ? null : toolkit.cublasLt);
        put(files, "cuDNN", cudnn);
        put(files, "NVML", nvml);
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
        if (present != null) {
            return present;
        }
        driver();
        List<String> majors = majors(Driver.version());
        for (String major : majors) {
            // Both of one version where there are both.
            if (!SEARCH.find(List.of("libnvrtc.so." + major)).isEmpty()
                    && !SEARCH.find(List.of("libcublasLt.so." + major)).isEmpty()) {
                majors = List.of(major);
                break;
            }
        }
        String remedy = "install the libraries of CUDA " + String.join(" or ", majors(Driver.version()))
                + " (a CUDA toolkit, or with Python: pip install nvidia-cuda-nvrtc nvidia-cublas)";
        List<String> nvrtcNames = majors.stream().map(m -> "libnvrtc.so." + m).toList();
        preloadBuiltins(nvrtcNames);
        Found nvrtc = load("NVRTC", remedy, nvrtcNames);
        Found cublasLt = load(
                "cuBLASLt",
                remedy,
                majors.stream().map(m -> "libcublasLt.so." + m).toList());
        present = new Toolkit(nvrtc, cublasLt);
        toolkit = present;
        return present;
    }

    /// The CUDA versions whose libraries a driver can run, the best first.
    static List<String> majors(int driverVersion) {
        return MAJORS.stream()
                .filter(major -> Integer.parseInt(major) <= driverVersion / 1000)
                .toList();
    }

    /// NVRTC opens this library by its name alone, which the system does not find in a folder of Python's;
    /// a library of that name that is loaded already is taken.
    private static void preloadBuiltins(List<String> nvrtcNames) {
        for (Path file : SEARCH.find(nvrtcNames).stream().limit(1).toList()) {
            try (DirectoryStream<Path> beside =
                    Files.newDirectoryStream(file.toRealPath().getParent(), "libnvrtc-builtins.so.*")) {
                beside.forEach(NativeLibrary::load);
            } catch (IOException | UnsatisfiedLinkError e) {
                // NVRTC may find it by itself; if not, it says so.
            }
        }
    }

    private static @Nullable Found optional(String name) {
        try {
            return SEARCH.load(name, "", List.of(name));
        } catch (UnsatisfiedLinkError e) {
            return null;
        }
    }

    private static Found load(String what, String remedy, List<String> names) {
        try {
            return SEARCH.load(what, remedy, names);
        } catch (UnsatisfiedLinkError e) {
            throw new UserException(String.valueOf(e.getMessage()), e);
        }
    }
}
