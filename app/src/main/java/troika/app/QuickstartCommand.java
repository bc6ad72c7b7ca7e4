package troika.app;

import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import troika.tensor.DType;
import troika.train.TrainingResult;
import troika.train.config.SaveStrategy;
import troika.train.config.SchedulerType;
import troika.train.config.TrainingOptions;
import troika.train.config.TrainingOptionsBuilder;

/// `troika quickstart`: a small model, trained on the JDK's source on three ranks.
final class QuickstartCommand implements Command {
    private static final long STEPS = 1200;
    private static final long WARMUP_STEPS = 100;
    private static final int SAMPLE_TOKENS = 220;
    private static final String PROMPT = "    /**\n     * Returns ";

    private final TrainingOptionsBuilder run = TrainingOptions.builder()
            .model("quickstart")
            .data(List.of("jdk"))
            .evalData(List.of("held-out"))
            .tokenizer("byte")
            .dtype(DType.BF16)
            .zeroStage(1)
            .sequenceLength(256)
            .trainBatchSize(6)
            .learningRate(1e-3)
            .minLearningRate(1e-4)
            .weightDecay(0.1)
            .adamBeta2(0.95)
            .lrSchedulerType(SchedulerType.COSINE)
            .loggingSteps(50)
            .saveStrategy(SaveStrategy.NO);
    private String devices = "cpu:3";
    private long steps = STEPS;
    private Path output = Path.of("");
    private final Options options = new Options(
                    "quickstart",
                    "Trains a small DeepSeek-architecture model on the JDK's own source text, then shows what it writes.")
            .text(
                    "DIR",
                    "Folder of the run. (default: troika-out/quickstart, with a number where that exists)",
                    value -> output = Path.of(value),
                    "--output")
            .count("Steps. (default: 1200)", value -> steps = value, "--max-steps")
            .text("auto|cpu:N|cuda:N", "Devices, as for train. (default: cpu:3)", value -> devices = value, "--devices")
            .texts("PATH", "Text to train on. (default: jdk, the JDK's own source)", run::data, "--data");

    @Override
    public String name() {
        return "quickstart";
    }

    @Override
    public Options options() {
        return options;
    }

    @Override
    public void run(PrintStream out) {
        TrainingOptions resolved = run.devices(devices)
                .notice(out::println)
                .maxSteps(steps)
                .warmupSteps(Math.min(WARMUP_STEPS, Math.max(0, steps) / 10))
                .output(output.toString().isEmpty() ? unused() : output)
                .build();
        TrainingResult result = TrainingRun.of(resolved, ProgressBar.on(out, resolved.loggingSteps()), out);
        if (!result.cancelled()) {
            out.println("Sample:");
            GenerateCommand.generate(
                    result.modelDirectory(), "cpu:1", PROMPT, SAMPLE_TOKENS, 0.6, resolved.seed(), out);
            out.println();
        }
        TrainingRun.report(result, out, "byte");
    }

    /// The first folder that no run has taken.
    private static Path unused() {
        Path folder = Path.of("troika-out", "quickstart");
        for (int n = 2; Files.exists(folder); n++) {
            folder = Path.of("troika-out", "quickstart-" + n);
        }
        return folder;
    }
}
