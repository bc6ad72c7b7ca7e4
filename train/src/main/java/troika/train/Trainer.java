package troika.train;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import troika.tensor.UserException;
import troika.train.config.TrainingOptions;

/// Trains a model.
public final class Trainer {
    private volatile boolean cancelled;

    private Trainer() {}

    /// Starts to describe a run.
    public static Builder of(TrainingOptions options) {
        return new Builder(options);
    }

    /// Runs to the end, or until [#cancel].
    public TrainingResult train() {
        if (cancelled) {
            return new TrainingResult(0, Double.NaN, Double.NaN, 0, Path.of(""), true);
        }
        throw new UserException("This build has no engine yet: merge the branch that holds it.");
    }

    /// Asks the run to save and stop after the step that it is in; may be called from any thread.
    public void cancel() {
        cancelled = true;
    }

    /// Describes a run.
    public static final class Builder {
        private final List<TrainingListener> listeners = new ArrayList<>();

        private Builder(TrainingOptions options) {
            if (options.data().isEmpty()) {
                throw new UserException("--data is missing.");
            }
        }

        /// Adds one that hears of the run.
        public Builder listener(TrainingListener listener) {
            listeners.add(listener);
            return this;
        }

        /// The run.
        public Trainer build() {
            return new Trainer();
        }
    }
}
