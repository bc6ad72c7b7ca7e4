package troika.train;

import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.config.SaveStrategy;
import troika.train.config.TrainingOptionsBuilder;

/// A run in a process of its own, which a test may kill.
final class Child implements AutoCloseable {
    /// For a run that saves nothing on its way.
    static final String UNSAVED = "unsaved";

    private final Process process;
    private final BufferedReader lines;

    private Child(Process process) {
        this.process = process;
        this.lines = process.inputReader(StandardCharsets.UTF_8);
    }

    /// The job of these processes: [Runs#job] in bf16 on two ranks, a checkpoint each step, the newest two kept.
    static TrainingOptionsBuilder job(Path parent, Path output, long steps) throws IOException {
        return Runs.job(parent)
                .dtype(DType.BF16)
                .devices("cpu:2")
                .output(output)
                .maxSteps(steps)
                .saveSteps(1)
                .saveTotalLimit(2);
    }

    /// Starts [#main] in another JVM.
    ///
    /// @param resume as `--resume`, or empty for a new run, or [#UNSAVED]
    static Child start(Path parent, Path output, long steps, String resume) throws IOException {
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
                Child.class.getName(),
                parent.toString(),
                output.toString(),
                String.valueOf(steps),
                resume));
        return new Child(new ProcessBuilder(command).redirectErrorStream(true).start());
    }

    /// Says of each step and save when it is done, and "done" at the end.
    public static void main(String[] arguments) throws IOException {
        TrainingOptionsBuilder options =
                job(Path.of(arguments[0]), Path.of(arguments[1]), Long.parseLong(arguments[2]));
        switch (arguments[3]) {
            case "" -> {}
            case UNSAVED -> options.saveStrategy(SaveStrategy.NO);
            default -> options.resume(arguments[3]);
        }
        try {
            Trainer.of(options.build())
                    .listener(new TrainingListener() {
                        @Override
                        public void onStep(StepMetrics metrics) {
                            System.out.println("step " + metrics.step() + " " + resident());
                        }

                        @Override
                        public void onSave(Path checkpoint) {
                            System.out.println("saved " + checkpoint.getFileName());
                        }
                    })
                    .build()
                    .train();
            System.out.println("done");
        } catch (UserException e) {
            System.out.println("refused: " + e.getMessage());
        }
    }

    /// This process's resident size in KiB.
    private static long resident() {
        try {
            for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
                if (line.startsWith("VmRSS:")) {
                    return Long.parseLong(line.replaceAll("[^0-9]", ""));
                }
            }
        } catch (IOException e) {
            return 0;
        }
        return 0;
    }

    /// Reads what the process says until a line begins so, and returns it.
    String await(String start) throws IOException {
        StringBuilder read = new StringBuilder();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            if (line.startsWith(start)) {
                return line;
            }
            read.append(line).append('\n');
        }
        throw new AssertionError("the process ended without a line \"" + start + "\" and said:\n" + read);
    }

    /// kill -9
    @Override
    public void close() {
        process.destroyForcibly().onExit().join();
    }
}
