package troika.train;

import java.math.BigDecimal;

/// One step's figures; a line of metrics.jsonl.
///
/// @param step number of the step, from 1
/// @param loss mean over the step's target tokens, in nats; may be infinite or NaN where it was skipped
/// @param gradNorm global norm of the gradients before clipping; not finite where the step was skipped
/// @param learningRate that the step's update used
/// @param tokens of the step
/// @param tokensPerSecond of the step
/// @param seconds that the step took
/// @param epoch passes over the data so far
/// @param memoryBytes the most memory of a device, or of main memory on the CPU, that this process was seen to
/// hold so far
/// @param skipped whether nothing was updated, because gradients overflowed at this loss scale (fp16)
/// @param lossScale that the step's loss was multiplied by; 1 where losses are not scaled
public record StepMetrics(
        long step,
        double loss,
        double gradNorm,
        double learningRate,
        long tokens,
        double tokensPerSecond,
        double seconds,
        double epoch,
        long memoryBytes,
        boolean skipped,
        double lossScale) {
    /// The loss scale in digits: most are powers of 2.
    public String plainLossScale() {
        return plain(lossScale);
    }

    static String plain(double scale) {
        return BigDecimal.valueOf(scale).stripTrailingZeros().toPlainString();
    }
}
