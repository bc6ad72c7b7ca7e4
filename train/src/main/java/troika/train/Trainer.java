package troika.train;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import troika.train.config.TrainingOptions;

/// Trains a model: what `troika train` does, as a library.
public final class Trainer {
    private final TrainingOptions options;
    private final TrainingListener listener;
    private volatile boolean cancelled;

    private Trainer(TrainingOptions options, List<TrainingListener> listeners) {
        this.options = options;
        this.listener = new Listeners(List.copyOf(listeners));
    }

    /// Starts to describe a run.
    public static Builder of(TrainingOptions options) {
        return new Builder(options);
    }

    /// Runs to the end, or until [#cancel], and leaves a model or, cancelled, a checkpoint. Throws
    /// [UserException] where the options, the data or the machine do not allow the run; before the first
    /// step nothing of an earlier run is touched.
    public TrainingResult train() {
        try (Run run = new Run(options, listener)) {
            return run.train(() -> cancelled);
        }
    }

    /// Asks the run to save and stop after the step that it is in; may be called from any thread.
    public void cancel() {
        cancelled = true;
    }

    /// Describes a run.
    public static final class Builder {
        private final TrainingOptions options;
        private final List<TrainingListener> listeners = new ArrayList<>();

        private Builder(TrainingOptions options) {
            this.options = options;
        }

        /// Adds one that hears of the run.
        public Builder listener(TrainingListener listener) {
            listeners.add(listener);
            return this;
        }

        /// The run, not yet started.
        public Trainer build() {
            return new Trainer(options, listeners);
        }
    }

    private record Listeners(List<TrainingListener> all) implements TrainingListener {
        @Override
        public void onStart(TrainingStart start) {
            all.forEach(listener -> listener.onStart(start));
        }

        @Override
        public void onStep(StepMetrics metrics) {
            all.forEach(listener -> listener.onStep(metrics));
        }

        @Override
        public void onEvaluation(long step, double loss) {
            all.forEach(listener -> listener.onEvaluation(step, loss));
        }

        @Override
        public void onSave(Path checkpoint) {
            all.forEach(listener -> listener.onSave(checkpoint));
        }

        @Override
        public void onMessage(String line) {
            all.forEach(listener -> listener.onMessage(line));
        }

        @Override
        public void onEnd(TrainingResult result) {
            all.forEach(listener -> listener.onEnd(result));
        }
    }
}
