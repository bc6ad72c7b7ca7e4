package troika.cuda;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/// Compiles and loads the kernels of a card: sources by NVRTC on first use, their machine code kept on
/// disk.
final class KernelLoader {
    private static final String FOLDER = "/troika/cuda/";
    private static final String PRELUDE = "common.cuh";

    private final CudaDevice device;
    private final Map<String, Long> modules = new HashMap<>();
    private final Map<String, CudaFunction> functions = new HashMap<>();

    KernelLoader(CudaDevice device) {
        this.device = device;
    }

    /// @param source the name of a resource without `.cu`
    synchronized CudaFunction function(String source, String kernel) {
        String key = source + " " + kernel;
        CudaFunction function = functions.get(key);
        if (function == null) {
            device.bind();
            Long module = modules.get(source);
            if (module == null) {
                module = load(source);
                modules.put(source, module);
            }
            try {
                function = new CudaFunction(device, kernel, Driver.moduleFunction(module, kernel));
            } catch (CudaException e) {
                throw new CudaException("no kernel " + kernel + " in " + source + ".cu: " + e.getMessage(), e);
            }
            functions.put(key, function);
        }
        return function;
    }

    private long load(String source) {
        String text = text(source);
        Target target = target(device.capability(), Nvrtc.architectures());
        List<String> options = List.of(target.option(), "--std=c++17", "-default-device");
        String key = "kernels of NVRTC " + Nvrtc.version() + " " + options + "\n" + text;
        byte[] kept = device.cache().get(key);
        if (kept != null) {
            try {
                return Driver.moduleLoad(kept);
            } catch (CudaException e) {
                // Machine code of another driver's time, say: it is made anew, and a failure that remains
                // is thrown.
            }
        }
        byte[] image = Nvrtc.compile(source + ".cu", text, options, target.ptx());
        long module = Driver.moduleLoad(image);
        device.cache().put(key, image);
        return module;
    }

    /// The source behind the prelude, with lines numbered as in their files.
    static String text(String source) {
        return "#line 1 \"" + PRELUDE + "\"\n" + resource(PRELUDE) + "\n#line 1 \"" + source + ".cu\"\n"
                + resource(source + ".cu");
    }

    private static String resource(String name) {
        try (InputStream in = KernelLoader.class.getResourceAsStream(FOLDER + name)) {
            if (in == null) {
                throw new IllegalArgumentException("there is no source " + name);
            }
            return new String(in.readAllBytes(), StandardCharsets.UTF_8);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /// What NVRTC is to compile for.
    ///
    /// @param ptx whether the driver makes the machine code, of the text that NVRTC makes
    record Target(int capability, boolean ptx) {
        String option() {
            return "--gpu-architecture=" + (ptx ? "compute_" : "sm_") + capability;
        }
    }

    /// The card's own architecture, or the newest older one where NVRTC does not know the card's.
    static Target target(int capability, List<Integer> architectures) {
        if (architectures.contains(capability)) {
            return new Target(capability, false);
        }
        int newest = architectures.stream()
                .filter(architecture -> architecture < capability)
                .mapToInt(Integer::intValue)
                .max()
                .orElseThrow(() -> new IllegalStateException(
                        "NVRTC " + architectures + " compiles for nothing that a card of sm_" + capability + " runs"));
        return new Target(newest, true);
    }

    void close() {
        for (long module : modules.values()) {
            device.release(() -> Driver.moduleUnload(module));
        }
    }
}
