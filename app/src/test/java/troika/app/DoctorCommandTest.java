package troika.app;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;
import troika.tensor.Finding;

class DoctorCommandTest {
    private static final List<Finding> FINDINGS = List.of(
            new Finding("cpu", "cores", "2", ""),
            new Finding("cpu", "memory", "1.0 GiB free of 2.0 GiB", "this process may use 1.5 GiB"),
            Finding.missing("cuda", "NVIDIA driver", "install one for CUDA 12 or newer"));

    @TempDir
    Path folder = Path.of("");

    private String run(String... arguments) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        ByteArrayOutputStream err = new ByteArrayOutputStream();
        int status = Main.run(
                arguments,
                new PrintStream(out, true, UTF_8),
                new PrintStream(err, true, UTF_8),
                folder.resolve("troika-error.log"));
        assertThat(err.toString(UTF_8)).isEmpty();
        assertThat(status).isZero();
        return out.toString(UTF_8);
    }

    @Test
    void textHasALineForEachFindingUnderItsSection() {
        assertThat(DoctorCommand.text(FINDINGS)).isEqualTo("""
                cpu
                  cores          2
                  memory         1.0 GiB free of 2.0 GiB (this process may use 1.5 GiB)

                cuda
                  NVIDIA driver  missing (install one for CUDA 12 or newer)
                """);
    }

    /// On any machine, with a card or without.
    @Test
    void jsonSaysWhatThisMachineHas() {
        JsonNode findings =
                JsonMapper.shared().readTree(run("doctor", "--json")).get("findings");
        List<String> names = findings.valueStream()
                .map(finding -> finding.get("section").asString() + " "
                        + finding.get("name").asString())
                .toList();
        assertThat(names)
                .contains("java runtime", "cpu processor", "cpu cores", "cpu features", "cpu memory")
                .contains("cpu lockable memory", "cpu memory bandwidth, 1 thread", "cuda NVIDIA driver")
                .doesNotHaveDuplicates();
        assertThat(findings.valueStream())
                .allMatch(finding -> !finding.get("value").asString().isEmpty());
    }

    @Test
    void helpNamesIt() {
        assertThat(run("--help")).contains("doctor");
        assertThat(run("doctor", "--help")).contains("--json");
    }
}
