package troika.cuda;

import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
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
    private static final List<String> MAJORS = List.of("13", "12");

    private static @Nullable Found driver;
    private static @Nullable Toolkit toolkit;
    private static @Nullable Found cudnn;
    private static @Nullable Found nvml;
    private static boolean optionalsSearched;

    private CudaLibraries() {}

    /// Libraries of one CUDA version, where such a pair is there.
    private record Toolkit(Found nvrtc, Found cublasLt) {}

    static synchronized NativeLibrary driver() {
        Found found = driver;
        if (found == null) {
            found = load("NVIDIA driver", "install one for CUDA 12 or newer", List.of("libcuda.so.1"));
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
        searchOptionals();
        return cudnn == null ? null : cudnn.library();
    }

    static synchronized @Nullable NativeLibrary nvml() {
        searchOptionals();
        return nvml == null ? null : nvml.library();
    }

    /// The libraries found and where, a line each.
    static synchronized String report() {
        toolkit();
        searchOptionals();
        List<String> lines = new ArrayList<>();
        lines.add("driver " + path(driver));
        lines.add("NVRTC " + path(toolkit().nvrtc));
        lines.add("cuBLASLt " + path(toolkit().cublasLt));
        lines.add("cuDNN " + path(cudnn));
        lines.add("NVML " + path(nvml));
        return String.join("\n", lines);
    }

    private static String path(@Nullable Found found) {
        return found == null ? "not found" : found.file().toString();
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

    private static void searchOptionals() {
        if (!optionalsSearched) {
            optionalsSearched = true;
            // cuDNN needs cuBLASLt and NVRTC, and takes those that are loaded.
            toolkit();
            cudnn = optional("libcudnn.so.9");
            nvml = optional("libnvidia-ml.so.1");
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
