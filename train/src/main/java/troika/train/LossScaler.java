package troika.train;

import tools.jackson.databind.node.ObjectNode;
import troika.model.JsonFields;
import troika.train.config.LossScaling;

/// The loss scale as a run goes on, by the rules of DeepSpeed's DynamicLossScaler.
///
/// @param scale what the next step's loss is multiplied by
/// @param iteration steps so far
/// @param lastOverflow the iteration of the last step that overflowed; −1: none
/// @param hysteresis overflows until the scale is lowered, itself included
record LossScaler(LossScaling settings, double scale, long iteration, long lastOverflow, long hysteresis) {
    static LossScaler start(LossScaling settings) {
        return new LossScaler(settings, settings.initialScale(), 0, -1, settings.hysteresis());
    }

    /// Whether an overflow now leaves nothing to try: the scale is static, or as low as it may be.
    boolean exhausted() {
        return !settings.dynamic() || (hysteresis <= 1 && scale <= settings.minimumScale());
    }

    /// After one more step.
    ///
    /// @param overflow whether its gradients were not finite
    LossScaler after(boolean overflow) {
        if (!settings.dynamic()) {
            return this;
        }
        if (overflow) {
            return hysteresis <= 1
                    ? new LossScaler(
                            settings,
                            Math.max(scale / 2, settings.minimumScale()),
                            iteration + 1,
                            iteration,
                            hysteresis)
                    : new LossScaler(settings, scale, iteration + 1, iteration, hysteresis - 1);
        }
        boolean grows = (iteration - lastOverflow) % settings.window() == 0;
        return new LossScaler(
                settings,
                grows ? 2 * scale : scale,
                iteration + 1,
                lastOverflow,
                grows || settings.consecutiveHysteresis() ? settings.hysteresis() : hysteresis);
    }

    void write(ObjectNode node) {
        node.put("scale", scale);
        node.put("iteration", iteration);
        node.put("last_overflow", lastOverflow);
        node.put("hysteresis", hysteresis);
    }

    /// The scaler that a checkpoint holds.
    static LossScaler read(LossScaling settings, JsonFields fields) {
        return new LossScaler(
                settings,
                fields.number("scale", Double.MIN_VALUE, Double.MAX_VALUE),
                fields.whole("iteration", 0, Long.MAX_VALUE),
                fields.whole("last_overflow", -1, Long.MAX_VALUE),
                fields.whole("hysteresis", 1, Long.MAX_VALUE));
    }
}
