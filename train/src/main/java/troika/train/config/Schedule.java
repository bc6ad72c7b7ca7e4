package troika.train.config;

/// The learning rate of each step: a pure function.
///
/// The warmup leads from `start` to `peak` in `warmupSteps` steps, then the type's curve from `peak`
/// towards `floor`, which it reaches at `totalSteps`. With start and floor 0 the curves are those of
/// transformers' schedules (`get_linear_schedule_with_warmup` and its siblings).
///
/// @param type of the curve after the warmup; CONSTANT has no warmup
/// @param peak the learning rate at the warmup's end
/// @param start the learning rate at step 0 of a warmup
/// @param floor the smallest learning rate of the falling curves
/// @param warmupSteps length of the warmup, may be 0
/// @param logarithmicWarmup whether the warmup rises as log(step + 1), as DeepSpeed's does by default, and
/// not evenly
/// @param totalSteps where the falling curves end
public record Schedule(
        SchedulerType type,
        double peak,
        double start,
        double floor,
        long warmupSteps,
        boolean logarithmicWarmup,
        long totalSteps) {
    /// The learning rate of the update that follows `step` completed updates: 0 for a run's first.
    public double learningRate(long step) {
        if (type == SchedulerType.CONSTANT) {
            return peak;
        }
        if (step < warmupSteps) {
            return start + (peak - start) * warmup(step);
        }
        return switch (type) {
            case CONSTANT, CONSTANT_WITH_WARMUP -> peak;
            case LINEAR -> floor + (peak - floor) * (1 - progress(step));
            case COSINE -> floor + (peak - floor) * 0.5 * (1 + Math.cos(Math.PI * progress(step)));
        };
    }

    private double warmup(long step) {
        if (logarithmicWarmup) {
            // DeepSpeed's own lower bound of 2 keeps the logarithm from being zero.
            return Math.log(step + 1.0) / Math.log((double) Math.max(2, warmupSteps));
        }
        return (double) step / warmupSteps;
    }

    private double progress(long step) {
        return Math.min(1, (double) (step - warmupSteps) / Math.max(1.0, (double) (totalSteps - warmupSteps)));
    }
}
