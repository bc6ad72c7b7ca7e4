package troika.train;

import java.nio.file.Path;

/// What a run came to.
///
/// @param steps done, those of an earlier part that it resumed included
/// @param finalLoss of the last step, in nats a target token
/// @param evaluationLoss of the last evaluation, in nats a target token; NaN if there was none
/// @param tokensPerSecond over the whole run
/// @param memoryBytes the most memory of a device, or of main memory on the CPU, that this process was seen to
/// hold
/// @param modelDirectory the final model, or after a cancelled run its last checkpoint
/// @param cancelled whether the run was stopped before its last step
public record TrainingResult(
        long steps,
        double finalLoss,
        double evaluationLoss,
        double tokensPerSecond,
        long memoryBytes,
        Path modelDirectory,
        boolean cancelled) {}
