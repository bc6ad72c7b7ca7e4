package troika.train;

import troika.tensor.UserException;
import troika.train.config.TrainingOptions;

/// Trains a model.
public final class Trainer {
    private Trainer() {}

    /// Starts to describe a run.
    public static Builder of(TrainingOptions options) {
        return new Builder(options);
    }

    /// Runs to the end, or until [#cancel].
    public TrainingResult train() {
        throw new UserException("This build has no engine yet: merge the branch that holds it.");
    }

    /// Asks the run to save and stop after the step that it is in; may be called from any thread.
    public void cancel() {}

    /// Describes a run.
    public static final class Builder {
        private Builder(TrainingOptions options) {
            if (options.data().isEmpty()) {
                throw new UserException("--data is missing.");
            }
        }

        /// Adds one that hears of the run.
        public Builder listener(TrainingListener listener) {
            listener.onMessage("");
            return this;
        }

        /// The run.
        public Trainer build() {
            return new Trainer();
        }
    }
}
