package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.File;
import java.io.IOException;
import java.net.URISyntaxException;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import troika.tensor.UserException;

/// Compiles every kernel for cards of several kinds, none of which this machine need have: with nvcc, or else with
/// NVRTC. Registers must not spill.
class KernelCompileTest {
    private static final List<Integer> CAPABILITIES = List.of(80, 89, 90);
    private static final Pattern SPILL = Pattern.compile("(?m)^.*\\b[1-9]\\d* bytes spill stores.*$");

    /// The names of all sources, without `.cu`.
    static List<String> sources() throws IOException, URISyntaxException {
        URL prelude = Objects.requireNonNull(KernelLoader.class.getResource("/troika/cuda/common.cuh"));
        try (Stream<Path> files =
                Files.list(Objects.requireNonNull(Path.of(prelude.toURI()).getParent()))) {
            return files.map(file -> String.valueOf(file.getFileName()))
                    .filter(name -> name.endsWith(".cu"))
                    .map(name -> name.substring(0, name.length() - ".cu".length()))
                    .sorted()
                    .toList();
        }
    }

    @ParameterizedTest
    @MethodSource("sources")
    void compilesWithoutSpills(String source, @TempDir Path folder) throws IOException, InterruptedException {
        Path nvcc = nvcc();
        if (nvcc != null) {
            compile(nvcc, source, folder);
            return;
        }
        List<Integer> known;
        try {
            known = Nvrtc.architectures();
        } catch (UserException e) {
            Assumptions.abort("There is no nvcc in PATH or /usr/local/cuda/bin to compile kernels with, and no NVRTC: "
                    + e.getMessage());
            return;
        }
        for (int capability : CAPABILITIES) {
            if (known.contains(capability)) {
                List<String> options = List.of(
                        "--gpu-architecture=sm_" + capability,
                        "--std=c++17",
                        "-default-device",
                        "--ptxas-options=--warn-on-spills",
                        "--ptxas-options=--warning-as-error");
                assertThat(Nvrtc.compile(source + ".cu", KernelLoader.text(source), options, false))
                        .isNotEmpty();
            }
        }
    }

    private static @Nullable Path nvcc() {
        String path = Objects.requireNonNullElse(System.getenv("PATH"), "");
        return Stream.concat(Stream.of(path.split(File.pathSeparator)), Stream.of("/usr/local/cuda/bin"))
                .map(folder -> Path.of(folder, "nvcc"))
                .filter(Files::isExecutable)
                .findFirst()
                .orElse(null);
    }

    private static void compile(Path nvcc, String source, Path folder) throws IOException, InterruptedException {
        Path file = Files.writeString(folder.resolve(source + ".cu"), KernelLoader.text(source));
        Path log = folder.resolve("log");
        List<String> command = new ArrayList<>(
                List.of(nvcc.toString(), "-std=c++17", "-fatbin", "-Xptxas", "-v", "-Werror", "all-warnings", "-o"));
        command.add(folder.resolve(source + ".fatbin").toString());
        for (int capability : CAPABILITIES) {
            command.add("-gencode=arch=compute_" + capability + ",code=sm_" + capability);
        }
        command.add(file.toString());
        int status = new ProcessBuilder(command)
                .redirectErrorStream(true)
                .redirectOutput(log.toFile())
                .start()
                .waitFor();
        String output = Files.readString(log, StandardCharsets.UTF_8);
        assertThat(status).as(output).isZero();
        assertThat(output).as("what ptxas says of each kernel").contains("0 bytes spill stores");
        assertThat(SPILL.matcher(output).results().map(spill -> around(output, spill.start())))
                .as("kernels that spill")
                .isEmpty();
    }

    /// The line before, which names the kernel, and the line at `place`.
    private static String around(String output, int place) {
        int before = output.lastIndexOf('\n', Math.max(0, place - 2));
        int end = output.indexOf('\n', place);
        return output.substring(Math.max(0, output.lastIndexOf('\n', Math.max(0, before - 1))), end)
                .strip();
    }
}
