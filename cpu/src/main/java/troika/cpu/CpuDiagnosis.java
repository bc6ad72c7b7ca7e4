package troika.cpu;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.CyclicBarrier;
import troika.tensor.Bytes;
import troika.tensor.Finding;

/// What `troika doctor` tells of the processor and its memory.
final class CpuDiagnosis {
    private static final String SECTION = "cpu";
    private static final List<String> FEATURES =
            List.of("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile");
    private static final long TRIAD_BYTES = 384L << 20;
    private static final int TRIAD_ROUNDS = 12;
    /// Below this much lockable memory, what pins memory without the card's driver fails.
    private static final long LITTLE_LOCKED = 1L << 30;

    private final Path root;

    CpuDiagnosis() {
        this(Path.of("/"));
    }

    /// @param root what the paths of `/proc` and `/sys` start from
    CpuDiagnosis(Path root) {
        this.root = root;
    }

    List<Finding> findings() {
        List<Finding> findings = new ArrayList<>();
        findings.add(new Finding(SECTION, "processor", CpuDevice.model(), ""));
        int cores = Runtime.getRuntime().availableProcessors();
        int present = (int) lines("proc/cpuinfo").stream()
                .filter(line -> line.startsWith("processor"))
                .count();
        findings.add(new Finding(
                SECTION,
                "cores",
                String.valueOf(cores),
                present > cores ? "of " + present + ": this process may use no more" : ""));
        findings.add(features(flags()));
        findings.add(instructions());
        findings.add(memory());
        findings.add(lockable());
        findings.add(bandwidth(1));
        if (cores > 1) {
            findings.add(bandwidth(cores));
        }
        return findings;
    }

    private Set<String> flags() {
        return lines("proc/cpuinfo").stream()
                .filter(line -> line.startsWith("flags"))
                .findFirst()
                .map(line -> (Set<String>) new HashSet<>(Arrays.asList(line.split("\\s+"))))
                .orElse(Set.of());
    }

    static Finding features(Set<String> flags) {
        List<String> present = FEATURES.stream().filter(flags::contains).toList();
        if (!flags.contains("avx2")) {
            return Finding.missing(SECTION, "features", "AVX2, which the kernels are fast with: use a newer processor");
        }
        boolean bf16 = flags.contains("avx512_bf16") || flags.contains("amx_bf16");
        return new Finding(
                SECTION,
                "features",
                String.join(", ", present),
                bf16 ? "" : "no bf16 arithmetic: --dtype fp32 is no slower than bf16 here");
    }

    private static Finding instructions() {
        try {
            return new Finding(SECTION, "oneDNN", "uses " + OneDnn.instructionSet(), "matrix products");
        } catch (LinkageError e) {
            return Finding.missing(
                    SECTION, "oneDNN", "it comes with Troika and could not be loaded: " + e.getMessage());
        }
    }

    private Finding memory() {
        long total = kibibytes("MemTotal:");
        long available = kibibytes("MemAvailable:");
        long limit = limit();
        boolean limited = limit > 0 && limit < total;
        return new Finding(
                SECTION,
                "memory",
                Bytes.gib(available, 1) + " free of " + Bytes.gib(total, 1),
                limited ? "this process may use " + Bytes.gib(limit, 1) : "");
    }

    /// What the control group allows, or 0.
    private long limit() {
        return lines("sys/fs/cgroup/memory.max").stream()
                .filter(line -> line.matches("\\d{1,18}"))
                .mapToLong(Long::parseLong)
                .findFirst()
                .orElse(0);
    }

    private long kibibytes(String field) {
        return lines("proc/meminfo").stream()
                .filter(line -> line.startsWith(field))
                .map(line -> line.replaceAll("\\D", ""))
                .filter(number -> !number.isEmpty())
                .mapToLong(number -> Long.parseLong(number) << 10)
                .findFirst()
                .orElse(0);
    }

    /// The limit that `ulimit -l` shows.
    private Finding lockable() {
        String soft = lines("proc/self/limits").stream()
                .filter(line -> line.startsWith("Max locked memory"))
                .map(line ->
                        line.substring("Max locked memory".length()).strip().replaceAll("\\s.*", ""))
                .findFirst()
                .orElse("unknown");
        if (!soft.matches("\\d{1,18}")) {
            return new Finding(SECTION, "lockable memory", soft, "ulimit -l");
        }
        long bytes = Long.parseLong(soft);
        return new Finding(
                SECTION,
                "lockable memory",
                bytes >> 10 < 1 << 20 ? (bytes >> 10) + " KiB" : Bytes.gib(bytes, 1),
                "ulimit -l"
                        + (bytes < LITTLE_LOCKED
                                ? "; the NVIDIA driver pins beyond it, RDMA does not: raise memlock in"
                                        + " /etc/security/limits.conf for that"
                                : ""));
    }

    private static Finding bandwidth(int threads) {
        String name = "memory bandwidth, " + threads + (threads == 1 ? " thread" : " threads");
        double rate = triad(threads, TRIAD_BYTES);
        if (Double.isNaN(rate)) {
            return new Finding(
                    SECTION, name, "not measured", "the Java heap is too small: raise TROIKA_HEAP, its size");
        }
        return rate > 0
                ? new Finding(
                        SECTION,
                        name,
                        String.format(Locale.ROOT, "%.1f GB/s", rate / 1e9),
                        "a = b + s · c over " + (TRIAD_BYTES >> 20) + " MiB, result checked")
                : new Finding(SECTION, name, "wrong data", "the memory of this machine is faulty: test it");
    }

    /// Bytes a second of a = b + s · c, counted as three times its length, by threads that start together: the best of
    /// some rounds; 0 where a result is wrong, NaN where the Java heap is too small.
    static double triad(int threads, long bytes) {
        int length = Math.toIntExact(Math.max(16, bytes / 3 / Float.BYTES / threads));
        CyclicBarrier barrier = new CyclicBarrier(threads + 1);
        boolean[] wrong = new boolean[threads];
        List<Thread> workers = new ArrayList<>();
        for (int t = 0; t < threads; t++) {
            int thread = t;
            workers.add(Thread.ofPlatform().daemon().start(() -> {
                try {
                    wrong[thread] = !triad(length, barrier);
                } catch (OutOfMemoryError | BrokenBarrierException | InterruptedException e) {
                    barrier.reset();
                }
            }));
        }
        long best = Long.MAX_VALUE;
        try {
            for (int round = 0; round < TRIAD_ROUNDS; round++) {
                barrier.await();
                long start = System.nanoTime();
                barrier.await();
                best = Math.min(best, System.nanoTime() - start);
            }
            for (Thread worker : workers) {
                worker.join();
            }
        } catch (BrokenBarrierException | InterruptedException e) {
            barrier.reset();
            return Double.NaN;
        }
        for (boolean failed : wrong) {
            if (failed) {
                return 0;
            }
        }
        return 3.0 * Float.BYTES * length * threads / (Math.max(1, best) / 1e9);
    }

    /// One thread's part; returns whether its result is right.
    private static boolean triad(int length, CyclicBarrier barrier)
            throws BrokenBarrierException, InterruptedException {
        // Each thread's pages are its own from the first touch on.
        float[] a = new float[length];
        float[] b = new float[length];
        float[] c = new float[length];
        for (int i = 0; i < length; i++) {
            b[i] = i & 0xffff;
            c[i] = 2 * (i & 0xff);
        }
        for (int round = 0; round < TRIAD_ROUNDS; round++) {
            barrier.await();
            scaledSum(a, b, c);
            barrier.await();
        }
        boolean right = true;
        for (int i = 0; i < length; i++) {
            right &= a[i] == (i & 0xffff) + (i & 0xff);
        }
        return right;
    }

    private static void scaledSum(float[] a, float[] b, float[] c) {
        for (int i = 0; i < a.length; i++) {
            a[i] = b[i] + 0.5f * c[i];
        }
    }

    private List<String> lines(String path) {
        try {
            return Files.readAllLines(root.resolve(path));
        } catch (IOException e) {
            return List.of();
        }
    }
}
