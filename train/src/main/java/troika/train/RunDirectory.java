package troika.train;

import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import tools.jackson.databind.node.ObjectNode;
import troika.model.JsonFields;
import troika.tensor.UserException;
import troika.train.checkpoint.Checkpoints;

/// `--output`: run.json, metrics.jsonl, checkpoints/ and model/.
final class RunDirectory implements AutoCloseable {
    private static final String RUN = "run.json";
    private static final String METRICS = "metrics.jsonl";

    private final Path root;
    private @Nullable BufferedWriter metrics;

    private RunDirectory(Path root) {
        this.root = root;
    }

    /// Checks that a new run may use the folder, or that there is a run to resume. Writes nothing.
    ///
    /// @param resume `latest`, the folder of a checkpoint, or null for a new run
    static RunDirectory check(Path root, @Nullable String resume) {
        if (Files.exists(root) && !Files.isDirectory(root)) {
            throw new UserException("The output " + root + " is a file: give a folder with --output.");
        }
        boolean latest = resume != null && resume.equals("latest");
        boolean taken =
                Files.exists(root.resolve(RUN)) || !Checkpoints.list(root).isEmpty();
        if (resume != null && !latest) {
            Path checkpoint = Path.of(resume);
            requireCheckpoint(checkpoint);
            if (taken && !isWithin(root, checkpoint)) {
                throw new UserException("The output folder " + root + " holds another run than the checkpoint "
                        + checkpoint + ": give that run's folder, or a new one, with --output.");
            }
        } else if (taken && !latest) {
            throw new UserException("The output folder " + root
                    + " holds another run: give another one with --output, or go on with that run with --resume.");
        }
        return new RunDirectory(root);
    }

    /// Whether a checkpoint is one of the run in `root`.
    private static boolean isWithin(Path root, Path checkpoint) {
        return checkpoint
                .toAbsolutePath()
                .normalize()
                .startsWith(root.toAbsolutePath().normalize());
    }

    private static void requireCheckpoint(Path directory) {
        if (!Files.isDirectory(directory)) {
            throw new UserException(
                    "The checkpoint " + directory + " is not there: give the folder of one, or --resume latest.");
        }
        for (String file : List.of("manifest.json", TrainerState.FILE)) {
            if (!Files.isRegularFile(directory.resolve(file))) {
                throw new UserException("The folder " + directory + " is not a checkpoint, since there is no "
                        + directory.resolve(file)
                        + ": give a folder such as <output>/checkpoints/step-N, or --resume latest.");
            }
        }
    }

    Path root() {
        return root;
    }

    /// The checkpoint that `--resume` names.
    Path checkpoint(String resume) {
        if (!resume.equals("latest")) {
            return Path.of(resume);
        }
        return Checkpoints.latest(root)
                .map(Checkpoints.Checkpoint::directory)
                .orElseThrow(() -> new UserException("There is no checkpoint in " + root
                        + " to resume: leave out --resume to start a run, or name the run's folder with --output."));
    }

    /// Makes the folder and writes run.json; metrics of steps after `step` are dropped, as they will be
    /// made again.
    void start(ObjectNode run, long step) {
        attempt(() -> {
            Files.createDirectories(root);
            Checkpoints.cleanUp(root);
            replace(RUN, JsonFields.write(run));
            Path file = root.resolve(METRICS);
            List<String> kept = new ArrayList<>();
            if (step > 0 && Files.exists(file)) {
                for (String line : Files.readAllLines(file)) {
                    if (isUpTo(line, step)) {
                        kept.add(line);
                    }
                }
            }
            StringBuilder text = new StringBuilder();
            kept.forEach(line -> text.append(line).append('\n'));
            replace(METRICS, text.toString().getBytes(StandardCharsets.UTF_8));
            metrics = Files.newBufferedWriter(file, StandardOpenOption.APPEND);
        });
    }

    /// Appends a line to metrics.jsonl.
    void log(StepMetrics step, double evaluationLoss) {
        ObjectNode line = JsonFields.newObject();
        line.put("step", step.step());
        // JSON has no infinity.
        if (Double.isFinite(step.loss())) {
            line.put("loss", step.loss());
        }
        if (Double.isFinite(step.gradNorm())) {
            line.put("grad_norm", step.gradNorm());
        }
        line.put("learning_rate", step.learningRate());
        line.put("tokens", step.tokens());
        line.put("tokens_per_second", step.tokensPerSecond());
        line.put("seconds", step.seconds());
        line.put("epoch", step.epoch());
        line.put("memory_bytes", step.memoryBytes());
        if (step.lossScale() != 1) {
            line.put("loss_scale", step.lossScale());
        }
        if (step.skipped()) {
            line.put("skipped", true);
        }
        if (!Double.isNaN(evaluationLoss)) {
            line.put("eval_loss", evaluationLoss);
        }
        BufferedWriter open = metrics;
        if (open == null) {
            throw new IllegalStateException("the run has not started");
        }
        attempt(() -> {
            open.write(line.toString());
            open.newLine();
            open.flush();
        });
    }

    @Override
    public void close() {
        BufferedWriter open = metrics;
        if (open != null) {
            attempt(open::close);
        }
    }

    /// Whether a line is whole and of a step up to `step`; a kill may have cut the last one.
    private static boolean isUpTo(String line, long step) {
        try {
            return JsonFields.parse(METRICS, line.getBytes(StandardCharsets.UTF_8))
                            .whole("step", 0, Long.MAX_VALUE)
                    <= step;
        } catch (UserException cut) {
            return false;
        }
    }

    private void replace(String name, byte[] content) throws IOException {
        Path beside = root.resolve("." + name + ".partial");
        Files.write(beside, content);
        Files.move(beside, root.resolve(name), StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    }

    private interface Action {
        void run() throws IOException;
    }

    private void attempt(Action action) {
        try {
            action.run();
        } catch (FileSystemException e) {
            String reason = e.getReason() == null ? e.getClass().getSimpleName() : e.getReason();
            throw new UserException(
                    "The output folder " + root + " cannot be written (" + e.getFile() + ": " + reason
                            + "): free some space or give another folder with --output.",
                    e);
        } catch (IOException e) {
            throw new UserException(
                    "The output folder " + root + " cannot be written (" + e.getMessage()
                            + "): free some space or give another folder with --output.",
                    e);
        } catch (UncheckedIOException e) {
            throw new UserException("The output folder " + root + " cannot be written (" + e.getMessage() + ").", e);
        }
    }
}
