package troika.train.example;

import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import troika.tensor.DType;
import troika.train.Generator;
import troika.train.StepMetrics;
import troika.train.Trainer;
import troika.train.TrainingListener;
import troika.train.TrainingResult;
import troika.train.config.SaveStrategy;
import troika.train.config.SchedulerType;
import troika.train.config.TrainingOptions;

/// Troika as a library: trains a model on three ranks, stops once it is good enough, and generates text.
///
/// It needs Troika's jars on the class path (the CPU's is found there by ServiceLoader) and the JVM's options
/// `--add-modules jdk.incubator.vector --enable-native-access=ALL-UNNAMED`.
public final class TrainFromJava {
    private TrainFromJava() {}

    /// Arguments: a model's folder or a preset such as quickstart, a text file, a folder for the run.
    public static void main(String[] arguments) {
        train(arguments[0], arguments[1], Path.of(arguments[2]), 200, 1.5);
        System.out.println(continued(Path.of(arguments[2]).resolve("model"), "Once "));
    }

    /// Trains until `maxSteps` or until the loss, in nats a token, is below `goal`.
    public static TrainingResult train(String model, String text, Path output, long maxSteps, double goal) {
        TrainingOptions options = TrainingOptions.builder()
                .model(model)
                .tokenizer("byte")
                .data(List.of(text))
                .devices("cpu:3")
                .zeroStage(1)
                .dtype(DType.BF16)
                .sequenceLength(64)
                .trainBatchSize(6)
                .maxSteps(maxSteps)
                .learningRate(2e-3)
                .lrSchedulerType(SchedulerType.COSINE)
                .saveStrategy(SaveStrategy.NO)
                .output(output)
                .build();
        AtomicReference<Trainer> running = new AtomicReference<>();
        Trainer trainer = Trainer.of(options)
                .listener(new TrainingListener() {
                    @Override
                    public void onStep(StepMetrics metrics) {
                        System.out.printf("step %d: loss %.3f%n", metrics.step(), metrics.loss());
                        Trainer itself = running.get();
                        if (itself != null && metrics.loss() < goal) {
                            itself.cancel(); // from any thread
                        }
                    }
                })
                .build();
        running.set(trainer);
        // A cancelled run has written a checkpoint, from which builder.resume("latest") goes on.
        return trainer.train();
    }

    /// The likeliest continuation.
    public static String continued(Path model, String prompt) {
        StringBuilder text = new StringBuilder(prompt);
        try (Generator generator = Generator.open(model, "cpu:1")) {
            generator.generate(prompt, 40, 0, 1, text::append);
        }
        return text.toString();
    }
}
