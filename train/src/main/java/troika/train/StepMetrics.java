package troika.train;

/// One step's figures; a line of metrics.jsonl.
///
/// @param step number of the step, from 1
/// @param loss mean over the step's target tokens, in nats
/// @param gradNorm global norm of the gradients before clipping
/// @param learningRate that the step's update used
/// @param tokens of the step
/// @param tokensPerSecond of the step
/// @param seconds that the step took
/// @param epoch passes over the data so far
public record StepMetrics(
        long step,
        double loss,
        double gradNorm,
        double learningRate,
        long tokens,
        double tokensPerSecond,
        double seconds,
        double epoch) {}
