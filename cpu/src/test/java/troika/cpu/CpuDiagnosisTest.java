package troika.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.tensor.Finding;

class CpuDiagnosisTest {
    private static Map<String, Finding> byName(List<Finding> findings) {
        return findings.stream().collect(Collectors.toMap(Finding::name, finding -> finding));
    }

    private static Finding of(Map<String, Finding> found, String name) {
        return Objects.requireNonNull(found.get(name), name);
    }

    @Test
    void readsWhatTheSystemSays(@TempDir Path root) throws Exception {
        Files.createDirectories(root.resolve("proc/self"));
        Files.createDirectories(root.resolve("sys/fs/cgroup"));
        Files.writeString(root.resolve("proc/cpuinfo"), "processor\t: 0\nflags\t\t: fpu avx2 avx512f amx_bf16\n");
        Files.writeString(root.resolve("proc/meminfo"), "MemTotal:  8388608 kB\nMemAvailable:  4194304 kB\n");
        Files.writeString(root.resolve("sys/fs/cgroup/memory.max"), "2147483648\n");
        Files.writeString(
                root.resolve("proc/self/limits"),
                "Max locked memory         65536                65536         bytes\n");
        Map<String, Finding> found = byName(new CpuDiagnosis(root).findings());
        assertThat(of(found, "features").value()).isEqualTo("avx2, avx512f, amx_bf16");
        assertThat(of(found, "features").note()).isEmpty();
        assertThat(of(found, "memory").value()).isEqualTo("4.0 GiB free of 8.0 GiB");
        assertThat(of(found, "memory").note()).contains("2.0 GiB");
        assertThat(of(found, "lockable memory").value()).isEqualTo("64 KiB");
        assertThat(of(found, "lockable memory").note()).contains("limits.conf");
        assertThat(of(found, "memory bandwidth, 1 thread").value()).matches("[0-9]+\\.[0-9] GB/s");
        assertThat(found.values()).allMatch(finding -> finding.section().equals("cpu"));
    }

    @Test
    void saysWhatAnOlderProcessorLacks() {
        assertThat(CpuDiagnosis.features(Set.of("sse2")).value()).isEqualTo(Finding.MISSING);
        assertThat(CpuDiagnosis.features(Set.of("avx2")).note()).contains("no bf16");
    }

    @Test
    void withoutFilesTheRestIsSaid(@TempDir Path root) {
        Map<String, Finding> found = byName(new CpuDiagnosis(root).findings());
        assertThat(of(found, "lockable memory").value()).isEqualTo("unknown");
        assertThat(found).containsKey("cores");
    }

    @Test
    void theTriadIsOfTheOrderOfMemory() {
        assertThat(CpuDiagnosis.triad(2, 24 << 20)).isBetween(1e8, 1e13);
    }
}
