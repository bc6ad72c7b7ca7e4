package troika.train;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;
import java.util.SplittableRandom;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.stream.Stream;
import troika.model.JsonFields;
import troika.model.ModelConfig;
import troika.tensor.DType;
import troika.train.config.SchedulerType;
import troika.train.config.TrainingOptions;
import troika.train.config.TrainingOptionsBuilder;

/// Small training jobs through [Trainer], as a user makes them: a model's folder, text, options.
public final class Runs {
    private static final String CACHE = "troika.cache";
    private static final String WORDS = "the model layer rank shard token gathers reduces a loss falls while ";

    private Runs() {}

    // Keeps token caches out of the user's folder.
    static {
        if (System.getProperty(CACHE) == null) {
            try {
                Path cache = Files.createTempDirectory("troika-test-cache");
                cache.toFile().deleteOnExit();
                System.setProperty(CACHE, cache.toString());
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }

    /// Two layers, four heads over two key-value heads, for the byte tokenizer.
    public static ModelConfig config(boolean tied) {
        return new ModelConfig(
                264,
                32,
                56,
                2,
                4,
                2,
                8,
                128,
                1e-6,
                10000,
                1,
                tied,
                OptionalInt.of(256),
                OptionalInt.of(257),
                "float32");
    }

    /// A folder with config.json alone.
    public static Path model(Path parent, ModelConfig config) throws IOException {
        Path folder = Files.createDirectories(parent.resolve("tiny-model"));
        config.write(folder, "float32");
        return folder;
    }

    /// Documents of pseudo-text, one a line.
    public static Path text(Path parent, int documents) throws IOException {
        SplittableRandom random = new SplittableRandom(documents);
        List<String> words = List.of(WORDS.split(" "));
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < documents; i++) {
            lines.append("{\"text\": \"");
            for (int n = random.nextInt(5, 40); n > 0; n--) {
                lines.append(words.get(random.nextInt(words.size()))).append(' ');
            }
            lines.append("\"}\n");
        }
        return Files.writeString(parent.resolve("text.jsonl"), lines);
    }

    /// A job of 6 steps of 8 sequences, of the 31 that an epoch has, in fp32 on one rank.
    public static TrainingOptionsBuilder job(Path parent) throws IOException {
        return TrainingOptions.builder()
                .model(model(parent, config(false)).toString())
                .tokenizer("byte")
                .data(List.of(text(parent, 8).toString()))
                .dtype(DType.F32)
                .devices(TestDevices.named(1))
                .sequenceLength(32)
                .trainBatchSize(8)
                .maxSteps(6)
                .learningRate(3e-4)
                .lrSchedulerType(SchedulerType.COSINE)
                .weightDecay(0.1)
                .seed(1);
    }

    public static TrainingResult train(TrainingOptionsBuilder options) {
        return Trainer.of(options.build()).build().train();
    }

    /// Trains, and cancels once step `last` is done.
    public static TrainingResult trainUntil(TrainingOptionsBuilder options, long last) {
        Consumer<StepMetrics> nothing = metrics -> {};
        return trainUntil(options, last, nothing);
    }

    static TrainingResult trainUntil(TrainingOptionsBuilder options, long last, Consumer<StepMetrics> heard) {
        Trainer[] trainer = new Trainer[1];
        trainer[0] = Trainer.of(options.build())
                .listener(new TrainingListener() {
                    @Override
                    public void onStep(StepMetrics metrics) {
                        heard.accept(metrics);
                        if (metrics.step() == last) {
                            trainer[0].cancel();
                        }
                    }
                })
                .build();
        return trainer[0].train();
    }

    /// metrics.jsonl without timings and sizes.
    public static List<String> metrics(Path output) throws IOException {
        return Files.readAllLines(output.resolve("metrics.jsonl")).stream()
                .map(line -> line.replaceAll("\"(tokens_per_second|seconds|memory_bytes)\":[^,}]*,?", ""))
                .toList();
    }

    public static List<Double> losses(Path output) throws IOException {
        return Files.readAllLines(output.resolve("metrics.jsonl")).stream()
                .map(line -> JsonFields.parse("metrics.jsonl", line.getBytes(StandardCharsets.UTF_8)))
                .map(fields -> fields.number("loss", 0, 1e9))
                .toList();
    }

    /// The names and contents of a folder's files; bytes as Latin-1, so that equal strings are equal bytes.
    public static TreeMap<String, String> files(Path folder) throws IOException {
        TreeMap<String, String> files = new TreeMap<>();
        try (Stream<Path> paths = Files.list(folder)) {
            for (Path path : paths.toList()) {
                files.put(path.getFileName().toString(), Files.readString(path, StandardCharsets.ISO_8859_1));
            }
        }
        return files;
    }
}
