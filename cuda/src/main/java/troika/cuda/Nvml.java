package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.util.Map;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;
import troika.ffi.NativeLibrary;

/// What NVIDIA's management library knows of a card, for messages. Where the library, or an answer, is
/// missing, so is the information; nothing here throws.
final class Nvml {
    private static final int MOST_PROCESSES = 256;
    private static final int PROCESS_BYTES = 24;
    private static final int TEXT_BYTES = 96;
    private static final @Nullable NativeLibrary LIBRARY = start();

    private Nvml() {}

    private static @Nullable NativeLibrary start() {
        NativeLibrary library = CudaLibraries.nvml();
        return library != null && call(library, "nvmlInit_v2") == 0 ? library : null;
    }

    /// Such as "580.159.04"; "unknown" where it is not known.
    static String driverVersion() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment text = arena.allocate(TEXT_BYTES);
            return call("nvmlSystemGetDriverVersion", text.address(), TEXT_BYTES) == 0 ? text.getString(0) : "unknown";
        }
    }

    /// How the card is connected, such as "PCIe 4.0 x8 (the card can 4.0 x16)"; null where it is not known.
    /// Idle cards lower their generation.
    static @Nullable String link(String pciBusId) {
        try (Arena arena = Arena.ofConfined()) {
            long device = device(arena, pciBusId);
            int generation = number(arena, "nvmlDeviceGetCurrPcieLinkGeneration", device);
            int width = number(arena, "nvmlDeviceGetCurrPcieLinkWidth", device);
            int mostGeneration = number(arena, "nvmlDeviceGetMaxPcieLinkGeneration", device);
            int mostWidth = number(arena, "nvmlDeviceGetMaxPcieLinkWidth", device);
            return device == 0 || generation == 0 || width == 0
                    ? null
                    : "PCIe " + generation + ".0 x" + width + " (the card can " + mostGeneration + ".0 x" + mostWidth
                            + ")";
        }
    }

    /// The other processes that use the card, such as "2 other processes use 3.10 GiB there: 4711, 4712";
    /// null where there is none, or where this process is not among those that the library lists (in a
    /// container, say), so that the others cannot be told from it.
    static @Nullable String otherProcesses(String pciBusId) {
        try (Arena arena = Arena.ofConfined()) {
            long device = device(arena, pciBusId);
            if (device == 0) {
                return null;
            }
            Map<Long, Long> bytes = processes(arena, device);
            return describe(bytes, ProcessHandle.current().pid());
        }
    }

    /// Bytes of the card that this process uses; 0 where that is not known.
    static long memoryOfThisProcess(String pciBusId) {
        try (Arena arena = Arena.ofConfined()) {
            long device = device(arena, pciBusId);
            return device == 0
                    ? 0
                    : processes(arena, device)
                            .getOrDefault(ProcessHandle.current().pid(), 0L);
        }
    }

    /// Bytes of the card that nobody uses; 0 where that is not known.
    static long freeMemory(String pciBusId) {
        try (Arena arena = Arena.ofConfined()) {
            long device = device(arena, pciBusId);
            // Total, free and used.
            MemorySegment info = arena.allocate(JAVA_LONG, 3);
            return device != 0 && call("nvmlDeviceGetMemoryInfo", device, info.address()) == 0
                    ? info.getAtIndex(JAVA_LONG, 1)
                    : 0;
        }
    }

    /// Millijoules that the card has used since its driver was loaded; 0 where that is not known. The counter moves
    /// some ten times a second.
    static long energy(String pciBusId) {
        try (Arena arena = Arena.ofConfined()) {
            long device = device(arena, pciBusId);
            MemorySegment energy = arena.allocate(JAVA_LONG);
            return device != 0 && call("nvmlDeviceGetTotalEnergyConsumption", device, energy.address()) == 0
                    ? energy.get(JAVA_LONG, 0)
                    : 0;
        }
    }

    /// The bytes that processes use of a card.
    private static Map<Long, Long> processes(Arena arena, long device) {
        Map<Long, Long> bytes = new TreeMap<>();
        MemorySegment infos = arena.allocate((long) MOST_PROCESSES * PROCESS_BYTES, 8);
        MemorySegment count = arena.allocate(JAVA_INT);
        for (String kind : new String[] {"Compute", "Graphics"}) {
            count.set(JAVA_INT, 0, MOST_PROCESSES);
            String function = "nvmlDeviceGet" + kind + "RunningProcesses_v3";
            if (call(function, device, count.address(), infos.address()) == 0) {
                for (int i = 0; i < count.get(JAVA_INT, 0); i++) {
                    long at = (long) i * PROCESS_BYTES;
                    bytes.put(
                            Integer.toUnsignedLong(infos.get(JAVA_INT, at)), Math.max(0, infos.get(JAVA_LONG, at + 8)));
                }
            }
        }
        return bytes;
    }

    /// @param bytes by process
    static @Nullable String describe(Map<Long, Long> bytes, long self) {
        if (!bytes.containsKey(self) || bytes.size() == 1) {
            return null;
        }
        Map<Long, Long> others = new TreeMap<>(bytes);
        others.remove(self);
        long used = others.values().stream().mapToLong(Long::longValue).sum();
        String ids =
                String.join(", ", others.keySet().stream().map(String::valueOf).toList());
        return others.size() + (others.size() == 1 ? " other process uses " : " other processes use ")
                + (used == 0 ? "the card" : CudaDevice.size(used) + " there") + ": " + ids;
    }

    private static long device(Arena arena, String pciBusId) {
        MemorySegment out = arena.allocate(JAVA_LONG);
        int status = call(
                "nvmlDeviceGetHandleByPciBusId_v2", arena.allocateFrom(pciBusId).address(), out.address());
        return status == 0 ? out.get(JAVA_LONG, 0) : 0;
    }

    private static int number(Arena arena, String function, long device) {
        MemorySegment out = arena.allocate(JAVA_INT);
        return device != 0 && call(function, device, out.address()) == 0 ? out.get(JAVA_INT, 0) : 0;
    }

    private static int call(String function, Object... arguments) {
        return LIBRARY == null ? -1 : call(LIBRARY, function, arguments);
    }

    /// The status, or -1 where there is no such function.
    private static int call(NativeLibrary library, String function, Object... arguments) {
        MemoryLayout[] layouts = new MemoryLayout[arguments.length];
        for (int i = 0; i < arguments.length; i++) {
            layouts[i] = arguments[i] instanceof Integer ? JAVA_INT : JAVA_LONG;
        }
        try {
            return (int) library.function(function, JAVA_INT, layouts).invokeWithArguments(arguments);
        } catch (Throwable e) {
            return -1;
        }
    }
}
