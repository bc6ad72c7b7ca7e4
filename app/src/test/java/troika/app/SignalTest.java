package troika.app;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assumptions.assumeThat;

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.train.checkpoint.Checkpoints;

/// SIGTERM and Ctrl-C, sent to the command itself.
class SignalTest {
    @TempDir
    Path folder = Path.of("");

    private List<String> train(String... more) {
        List<String> words = new ArrayList<>(List.of("train", "--tokenizer", "byte", "--sequence-length", "32"));
        words.addAll(List.of("--model", folder.resolve("m").toString()));
        words.addAll(List.of("--data", folder.resolve("text.txt").toString()));
        words.addAll(List.of("--output", folder.resolve("run").toString()));
        words.addAll(List.of("--train-batch-size", "4", "--devices", "cpu:2", "--logging-steps", "1"));
        words.addAll(List.of(more));
        return words;
    }

    private Process start(List<String> arguments) throws Exception {
        List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--add-modules",
                "jdk.incubator.vector",
                "--enable-native-access=ALL-UNNAMED",
                "-XX:+UseSerialGC",
                "-Xmx256m",
                "-Dtroika.cache=" + System.getProperty("troika.cache"),
                "-cp",
                System.getProperty("java.class.path"),
                Main.class.getName()));
        command.addAll(arguments);
        return new ProcessBuilder(command).start();
    }

    /// Whether this process was started with a signal ignored, as shells start background jobs with SIGINT: then its
    /// children ignore it too.
    private static boolean ignored(int signal) throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("SigIgn:")) {
                long mask = Long.parseUnsignedLong(
                        line.substring("SigIgn:".length()).strip(), 16);
                return (mask & (1L << (signal - 1))) != 0;
            }
        }
        return false;
    }

    @ParameterizedTest
    @CsvSource({"TERM,143", "INT,130"})
    @Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
    void aSignalSavesAndEndsTheProcess(String signal, int status) throws Exception {
        assumeThat(ignored(status - 128)).as("SIG%s is ignored here", signal).isFalse();
        Files.createDirectories(folder.resolve("m"));
        Files.writeString(folder.resolve("m/config.json"), BadInputTest.CONFIG);
        Files.writeString(folder.resolve("text.txt"), "Hello, this is text to train on. ".repeat(100));
        System.setProperty("troika.cache", folder.resolve("cache").toString());
        Process process = start(train("--max-steps", "1000000"));
        String last = "";
        try (BufferedReader lines = process.inputReader(UTF_8)) {
            String line = lines.readLine();
            while (line != null && !line.startsWith("step 3/")) {
                line = lines.readLine();
            }
            new ProcessBuilder("kill", "-" + signal, String.valueOf(process.pid()))
                    .start()
                    .waitFor();
            for (; line != null; line = lines.readLine()) {
                last = line.startsWith("Stopped") ? line : last;
            }
            assertThat(process.waitFor(30, TimeUnit.SECONDS)).isTrue();
        } finally {
            process.destroyForcibly();
        }
        assertThat(process.exitValue()).isEqualTo(status);
        Checkpoints.Checkpoint saved = Checkpoints.latest(folder.resolve("run")).orElseThrow();
        assertThat(saved.step()).isGreaterThanOrEqualTo(3);
        assertThat(last).isEqualTo("Stopped after step " + saved.step() + "; --resume goes on from there.");
        Checkpoints.verify(saved.directory());
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        PrintStream out = new PrintStream(said, true, UTF_8);
        List<String> resume = train("--resume", "--max-steps", String.valueOf(saved.step() + 2));
        assertThat(Main.run(resume.toArray(String[]::new), out, out, folder.resolve("log")))
                .isZero();
        assertThat(said.toString(UTF_8))
                .contains("step " + (saved.step() + 1) + "/")
                .contains("Model: ");
        assertThat(Files.readAllLines(folder.resolve("run/metrics.jsonl"))).hasSize((int) saved.step() + 2);
    }
}
