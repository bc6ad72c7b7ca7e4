package troika.train;

import java.nio.file.Path;

/// Hears what a training run does. Methods are called on the run's own threads, one at a time, and should
/// return fast.
public interface TrainingListener {
    /// The run is about to take its first step.
    default void onStart(TrainingStart start) {}

    /// A step has ended.
    default void onStep(StepMetrics metrics) {}

    /// An evaluation has ended; `loss` is in nats a target token.
    default void onEvaluation(long step, double loss) {}

    /// A checkpoint is whole on disk.
    default void onSave(Path checkpoint) {}

    /// Something that a user may want to read.
    default void onMessage(String line) {}

    /// The run has ended, also where it was cancelled.
    default void onEnd(TrainingResult result) {}
}
