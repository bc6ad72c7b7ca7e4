package troika.train.config;

/// What the loss is multiplied by in fp16, so that small gradients do not vanish: DeepSpeed's `fp16`
/// section.
///
/// @param dynamic whether the scale follows the gradients, or stays as it is
/// @param initialScale the scale that a run begins with
/// @param window steps without an overflow after which the scale doubles
/// @param hysteresis overflows that lower the scale: the first hysteresis − 1 only skip their step
/// @param consecutiveHysteresis whether a step without an overflow restores the hysteresis, rather than
/// the next doubling
/// @param minimumScale the scale is not lowered beyond this
public record LossScaling(
        boolean dynamic,
        double initialScale,
        long window,
        long hysteresis,
        boolean consecutiveHysteresis,
        double minimumScale) {
    /// No scaling, as in fp32 and bf16.
    public static final LossScaling NONE = new LossScaling(false, 1, 1, 1, false, 1);
}
