package troika.train;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.function.Supplier;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import troika.model.ModelWeights;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.config.LayoutWords;
import troika.train.config.TrainingOptions;
import troika.train.config.TrainingOptionsBuilder;

/// Trains one job in several layouts and compares losses and final weights.
public final class Certifier {
    private static final double FP32_CPU = 1e-5;
    private static final double FP32_CARD = 1e-4;
    private static final double HALF = 5e-3;
    private static final double WEIGHTS = 1e-4;

    private final List<String> layouts;
    private final @Nullable Path parent;
    private final Consumer<String> progress;
    /// By layout, all but the output.
    private final List<TrainingOptionsBuilder> jobs = new ArrayList<>();
    private volatile @Nullable Trainer current;
    private volatile boolean cancelled;

    /// Checks that all layouts are possible. Throws [UserException] where one is not.
    ///
    /// All take as many sequences a step: as said, or as many as the layout that needs most where only those of a
    /// microbatch are said.
    ///
    /// @param job what to train, without a layout and an output
    /// @param layouts two or more lines as [LayoutWords] reads them
    /// @param parent of the folder for what is compared, which is removed in the end; null: where the system has
    /// temporary files
    /// @param progress hears a line for each run
    public Certifier(
            TrainingOptionsBuilder job, List<String> layouts, @Nullable Path parent, Consumer<String> progress) {
        this.layouts = List.copyOf(layouts);
        this.parent = parent;
        this.progress = progress;
        if (layouts.size() < 2) {
            throw new UserException("A certificate compares layouts: give --layout twice or more, such as --layout dp1"
                    + " --layout \"tp2 zero1\".");
        }
        int batch = 0;
        for (String layout : layouts) {
            TrainingOptionsBuilder run = LayoutWords.apply(layout, job).forComparison();
            batch = Math.max(batch, in(layout, run::batch));
            jobs.add(run);
        }
        List<TrainingOptions> runs = new ArrayList<>();
        for (int i = 0; i < jobs.size(); i++) {
            in(layouts.get(i), jobs.get(i).sameBatch(batch)::batch);
            runs.add(jobs.get(i).build());
        }
        ModelSource source = ModelSource.of(runs.getFirst());
        try {
            for (int i = 0; i < runs.size(); i++) {
                TrainingOptions run = runs.get(i);
                in(layouts.get(i), () -> {
                    LayoutFit.check(run.sharing(), source.config());
                    return run;
                });
            }
        } finally {
            source.tokenizer().close();
        }
    }

    /// Names the layout with which something is impossible.
    private static <T> T in(String layout, Supplier<T> what) {
        try {
            return what.get();
        } catch (UserException e) {
            throw new UserException("With --layout \"" + layout + "\": " + e.getMessage(), e);
        }
    }

    private static Path temporary(@Nullable Path parent) {
        try {
            return parent == null
                    ? Files.createTempDirectory("troika-certify")
                    : Files.createTempDirectory(Files.createDirectories(parent), "troika-certify");
        } catch (IOException e) {
            throw new UserException(
                    "No temporary folder can be made (" + e.getMessage()
                            + "): name one that may be written with --output.",
                    e);
        }
    }

    /// Trains in each layout.
    ///
    /// @param tolerance of losses, relative; null: 1e-5 in fp32 on CPUs, 1e-4 on cards, 5e-3 in bf16 and fp16. Of
    /// weights it is 1e-4, or this where this is more
    public Certificate certify(@Nullable Double tolerance) {
        Path folder = temporary(parent);
        Certificate certificate;
        try {
            certificate = certify(tolerance, folder);
        } catch (RuntimeException | Error e) {
            try {
                delete(folder);
            } catch (IOException left) {
                e.addSuppressed(left);
            }
            throw e;
        }
        remove(folder);
        return certificate;
    }

    private Certificate certify(@Nullable Double tolerance, Path folder) {
        List<TrainingOptions> runs = new ArrayList<>();
        for (TrainingOptionsBuilder job : jobs) {
            runs.add(job.copy()
                    .output(folder.resolve(String.valueOf(runs.size())))
                    .build());
        }
        double allowed = tolerance != null ? tolerance : defaultTolerance(runs.getFirst());
        List<List<Double>> losses = new ArrayList<>();
        List<Map<String, Double>> weights = new ArrayList<>();
        for (int i = 0; i < runs.size(); i++) {
            TrainingOptions options = runs.get(i);
            progress.accept("Training " + options.maxSteps() + " steps as " + layouts.get(i) + " on "
                    + options.devices() + " (layout " + options.sharing().layout() + ")");
            losses.add(train(layouts.get(i), options));
            weights.add(differences(
                    runs.getFirst().output().resolve("model"), options.output().resolve("model")));
            if (i > 0) {
                remove(options.output());
            }
        }
        return new Certificate(layouts, losses, weights, allowed, Math.max(WEIGHTS, allowed));
    }

    /// Stops after the step under way; [#certify] then throws [UserException]. May be called from any thread.
    public void cancel() {
        cancelled = true;
        Trainer trainer = current;
        if (trainer != null) {
            trainer.cancel();
        }
    }

    private static double defaultTolerance(TrainingOptions options) {
        if (options.dtype() != DType.F32) {
            return HALF;
        }
        return options.devices().startsWith("cpu") ? FP32_CPU : FP32_CARD;
    }

    private List<Double> train(String layout, TrainingOptions options) {
        List<Double> losses = new ArrayList<>();
        Trainer trainer = Trainer.of(options)
                .listener(new TrainingListener() {
                    @Override
                    public void onStep(StepMetrics metrics) {
                        losses.add(metrics.loss());
                    }
                })
                .build();
        current = trainer;
        if (cancelled || in(layout, trainer::train).cancelled()) {
            throw new UserException("The certificate was stopped before it was complete.");
        }
        return losses;
    }

    private static Map<String, Double> differences(Path expected, Path actual) {
        Map<String, Double> differences = new TreeMap<>();
        try (ModelWeights first = ModelWeights.open(expected);
                ModelWeights other = ModelWeights.open(actual)) {
            for (String name : first.names()) {
                differences.put(
                        name,
                        difference(first.tensor(name).data(), other.tensor(name).data()));
            }
        }
        return differences;
    }

    /// The norm of the difference, as a part of the expected norm.
    private static double difference(MemorySegment expected, MemorySegment actual) {
        double difference = 0;
        double norm = 0;
        long count = expected.byteSize() / Float.BYTES;
        for (long i = 0; i < count; i++) {
            float value = expected.get(ValueLayout.JAVA_FLOAT_UNALIGNED, Float.BYTES * i);
            double delta = actual.get(ValueLayout.JAVA_FLOAT_UNALIGNED, Float.BYTES * i) - value;
            difference += delta * delta;
            norm += (double) value * value;
        }
        return difference == 0 ? 0 : Math.sqrt(difference / norm);
    }

    private void remove(Path tree) {
        try {
            delete(tree);
        } catch (IOException e) {
            progress.accept("The temporary folder " + tree + " could not be removed: " + e);
        }
    }

    private static void delete(Path tree) throws IOException {
        try (Stream<Path> paths = Files.walk(tree)) {
            for (Path path : paths.sorted(Comparator.reverseOrder()).toList()) {
                Files.deleteIfExists(path);
            }
        }
    }
}
