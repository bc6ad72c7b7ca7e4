package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.MemoryLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import troika.ffi.Native;
import troika.ffi.NativeLibrary;
import troika.tensor.Bytes;
import troika.tensor.Finding;
import troika.tensor.UserException;

/// What `troika doctor` tells of NVIDIA's driver, libraries and cards.
final class CudaDiagnosis {
    private static final String SECTION = "cuda";
    /// Of each copy: larger than any cache.
    private static final long COPIED_BYTES = 256L << 20;
    /// What a card must have free, with room for a context's own needs.
    private static final long NEEDED_BYTES = 3 * COPIED_BYTES;

    private static final long MOST_PINNED = 4L << 30;

    private final List<Finding> findings = new ArrayList<>();

    List<Finding> findings() {
        if (driver()) {
            libraries();
            cards();
        }
        return findings;
    }

    private void add(String section, String name, String value, String note) {
        findings.add(new Finding(section, name, value, note));
    }

    private void missing(String section, String name, Throwable e) {
        findings.add(Finding.missing(section, name, String.valueOf(e.getMessage())));
    }

    private boolean driver() {
        try {
            int version = CudaLibraries.driverVersion();
            add(SECTION, "NVIDIA driver", "CUDA " + version / 1000 + "." + version % 1000 / 10, path("driver"));
            CudaDeviceProvider.requireDriver(version);
            Driver.init();
            return true;
        } catch (RuntimeException | LinkageError e) {
            missing(SECTION, findings.isEmpty() ? "NVIDIA driver" : "cards", e);
            return false;
        }
    }

    private void libraries() {
        NativeLibrary nvml = CudaLibraries.nvml();
        if (nvml == null) {
            findings.add(Finding.missing(SECTION, "NVML", "it comes with the driver; only messages miss it"));
        } else {
            add(SECTION, "NVML", "driver " + Nvml.driverVersion(), path("NVML"));
        }
        try {
            NativeLibrary cublasLt = CudaLibraries.cublasLt();
            add(SECTION, "NVRTC", Nvrtc.version(), path("NVRTC"));
            add(SECTION, "cuBLASLt", dotted(version(cublasLt, "cublasLtGetVersion")), path("cuBLASLt"));
        } catch (RuntimeException | LinkageError e) {
            missing(SECTION, "NVRTC and cuBLASLt", e);
            return;
        }
        NativeLibrary cudnn = CudaLibraries.cudnn();
        if (cudnn == null) {
            findings.add(Finding.missing(
                    SECTION,
                    "cuDNN",
                    "attention is faster with it: install cuDNN 9 (with Python: pip install nvidia-cudnn-cu"
                            + CudaLibraries.driverVersion() / 1000 + ")"));
        } else {
            add(SECTION, "cuDNN", dotted(version(cudnn, "cudnnGetVersion")), path("cuDNN"));
        }
        nccl();
    }

    private void nccl() {
        if (CudaLibraries.nccl() == null) {
            findings.add(Finding.missing(
                    SECTION, "NCCL", "only several cards use it, and Troika's own collectives do without it"));
            return;
        }
        try {
            add(SECTION, "NCCL", Nccl.version(), path("NCCL"));
        } catch (RuntimeException | LinkageError e) {
            missing(SECTION, "NCCL", e);
        }
    }

    private static String path(String library) {
        Path file = CudaLibraries.files().get(library);
        return file == null ? "" : file.toString();
    }

    private static long version(NativeLibrary library, String function) {
        try {
            return (long)
                    library.function(function, JAVA_LONG, new MemoryLayout[0]).invokeExact();
        } catch (Throwable e) {
            throw Native.failed(function, e);
        }
    }

    /// 91300 is 9.13.0.
    static String dotted(long version) {
        return version / 10_000 + "." + version / 100 % 100 + "." + version % 100;
    }

    private void cards() {
        List<CardProbe> probes = new ArrayList<>();
        try {
            int count = Driver.deviceCount();
            if (count == 0) {
                findings.add(Finding.missing(SECTION, "cards", "the driver has none: look at what nvidia-smi says"));
            }
            for (int ordinal = 0; ordinal < count; ordinal++) {
                card(ordinal, probes);
            }
            for (CardProbe from : probes) {
                for (CardProbe to : probes) {
                    if (from != to) {
                        between(from, from.ordinal(), to, to.ordinal());
                    }
                }
            }
        } catch (RuntimeException | LinkageError e) {
            missing(SECTION, "measurements", e);
        } finally {
            probes.forEach(CardProbe::close);
        }
        if (probes.size() > 1) {
            collectives(probes.stream().map(probe -> "" + probe.ordinal()).collect(Collectors.joining(",")));
        }
    }

    private void card(int ordinal, List<CardProbe> probes) {
        String section = "cuda:" + ordinal;
        int handle = Driver.device(ordinal);
        String bus = Driver.pciBusId(handle);
        int capability = CudaDevice.capability(handle);
        add(
                section,
                "card",
                Driver.deviceName(handle),
                "sm_" + capability + ", " + Driver.attribute(Driver.MULTIPROCESSORS, handle) + " multiprocessors, PCI "
                        + bus);
        try {
            CudaDeviceProvider.requireCapability(ordinal, Driver.deviceName(handle), capability);
        } catch (UserException e) {
            missing(section, "capability 8.0", e);
        }
        String link = Nvml.link(bus);
        add(section, "link", link == null ? "unknown" : link, "");
        CardProbe probe = new CardProbe(ordinal, COPIED_BYTES);
        probes.add(probe);
        Driver.MemoryInfo memory = Driver.memoryInfo();
        String others = Nvml.otherProcesses(bus);
        add(
                section,
                "memory",
                Bytes.gib(memory.free(), 1) + " free of " + Bytes.gib(memory.total(), 1),
                others == null ? "" : others);
        if (memory.free() < NEEDED_BYTES) {
            add(section, "bandwidth", "not measured", "too little of the card's memory is free");
            probes.remove(probe);
            probe.close();
            return;
        }
        long pinned = probe.pinnable(MOST_PINNED);
        add(
                section,
                "pinned host memory",
                (pinned == MOST_PINNED ? "at least " : "") + Bytes.gib(pinned, 1),
                pinned == MOST_PINNED ? "no more was tried" : "more was refused: free memory, or raise ulimit -l");
        probe.prepare();
        rate(section, "host to card", probe::hostToCard, "pinned memory");
        rate(section, "card to host", probe::cardToHost, "pinned memory");
        rate(section, "both ways at once", probe::bothWays, "their sum");
        rate(section, "card's memory", probe::withinCard, "copies, bytes read and written");
    }

    private void between(CardProbe from, int a, CardProbe to, int b) {
        String note = from.reaches(to) ? "directly" : "through host memory: these cards cannot reach each other";
        rate("cuda:" + a, "to cuda:" + b, () -> from.toCard(to), note);
    }

    /// How a run with a rank on each of these cards would exchange data, and what trying it gave.
    private void collectives(String cards) {
        for (boolean deterministic : new boolean[] {false, true}) {
            String name = "--deterministic " + (deterministic ? "on" : "off");
            List<CudaDevice> devices = new ArrayList<>();
            try {
                new CudaDeviceProvider().open(cards, deterministic).forEach(card -> devices.add((CudaDevice) card));
                CudaCommunicatorProvider.Chosen chosen = CudaCommunicatorProvider.choose(devices, deterministic);
                String whose = chosen.nccl() ? "NCCL's, and Troika's own " : "Troika's own ";
                add("collectives", name, whose + chosen.routes(), chosen.why());
            } catch (RuntimeException | LinkageError e) {
                missing("collectives", name, e);
            } finally {
                devices.forEach(CudaDevice::close);
            }
        }
    }

    private void rate(String section, String name, Supplier<Double> measured, String note) {
        @Nullable Double rate = measured.get();
        boolean right = rate != null && !Double.isNaN(rate);
        add(
                section,
                name,
                right ? String.format(Locale.ROOT, "%.1f GB/s", rate / 1e9) : "wrong data",
                right ? note + ", data verified" : "what arrived is not what was sent: do not train on this card");
    }
}
