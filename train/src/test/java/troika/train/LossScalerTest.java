package troika.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;
import tools.jackson.databind.node.ObjectNode;
import troika.model.JsonFields;
import troika.train.config.LossScaling;

class LossScalerTest {
    private static LossScaler scaler(double scale, long window, long hysteresis, boolean consecutive, double least) {
        return LossScaler.start(new LossScaling(true, scale, window, hysteresis, consecutive, least));
    }

    /// The scales of the steps, of which '!' marks those that overflow.
    private static List<Double> scales(LossScaler start, String steps) {
        List<Double> scales = new ArrayList<>();
        LossScaler scaler = start;
        for (int i = 0; i < steps.length(); i++) {
            scaler = scaler.after(steps.charAt(i) == '!');
            scales.add(scaler.scale());
        }
        return scales;
    }

    @Test
    void doublesAfterAWindowWithoutOverflow() {
        assertThat(scales(scaler(8, 3, 1, false, 1), "......")).containsExactly(8.0, 8.0, 16.0, 16.0, 16.0, 32.0);
        // The window begins anew at an overflow.
        assertThat(scales(scaler(8, 3, 1, false, 1), "..!....")).containsExactly(8.0, 8.0, 4.0, 4.0, 4.0, 8.0, 8.0);
    }

    @Test
    void hysteresisLetsOverflowsPass() {
        assertThat(scales(scaler(8, 100, 3, false, 1), "!!!!")).containsExactly(8.0, 8.0, 4.0, 2.0);
        // It stays used up until the scale doubles, or where consecutive, until a step without overflow.
        assertThat(scales(scaler(8, 100, 2, false, 1), "!.!.!")).containsExactly(8.0, 8.0, 4.0, 4.0, 2.0);
        assertThat(scales(scaler(8, 100, 2, true, 1), "!.!.!!")).containsExactly(8.0, 8.0, 8.0, 8.0, 8.0, 4.0);
        assertThat(scales(scaler(8, 2, 2, false, 1), "!!..!!")).containsExactly(8.0, 4.0, 4.0, 8.0, 8.0, 4.0);
    }

    @Test
    void stopsAtTheMinimumOnly() {
        LossScaler scaler = scaler(6, 100, 2, false, 2);
        assertThat(scaler.exhausted()).isFalse();
        scaler = scaler.after(true).after(true).after(true);
        assertThat(scaler.scale()).isEqualTo(2);
        assertThat(scaler.exhausted()).isTrue();
        LossScaler fresh = scaler(2, 100, 2, false, 2);
        assertThat(fresh.exhausted()).isFalse();
        assertThat(fresh.after(true).exhausted()).isTrue();
        LossScaler still = LossScaler.start(new LossScaling(false, 128, 1, 5, false, 1));
        assertThat(still.exhausted()).isTrue();
        assertThat(still.after(false).after(true)).isEqualTo(still);
    }

    /// DeepSpeed's DynamicLossScaler as it is documented, in variables.
    @Property(tries = 200)
    void isDeepSpeeds(
            @ForAll @Size(max = 60) List<Boolean> overflows,
            @ForAll @IntRange(min = 1, max = 7) int window,
            @ForAll @IntRange(min = 1, max = 4) int shift,
            @ForAll boolean consecutive) {
        LossScaler scaler = scaler(1024, window, shift, consecutive, 16);
        double scale = 1024;
        int iteration = 0;
        int last = -1;
        int hysteresis = shift;
        for (boolean overflow : overflows) {
            boolean raises = false;
            if (overflow) {
                if (shift == 1 || hysteresis == 1) {
                    raises = scale == 16;
                    scale = Math.max(scale / 2, 16);
                } else {
                    hysteresis--;
                }
                last = iteration;
            } else {
                if (consecutive) {
                    hysteresis = shift;
                }
                if ((iteration - last) % window == 0) {
                    if (!consecutive) {
                        hysteresis = shift;
                    }
                    scale *= 2;
                }
            }
            iteration++;
            assertThat(overflow && scaler.exhausted()).isEqualTo(raises);
            scaler = scaler.after(overflow);
            assertThat(scaler.scale()).isEqualTo(scale);
            assertThat(scaler.hysteresis()).isEqualTo(hysteresis);
        }
        ObjectNode node = JsonFields.newObject();
        scaler.write(node);
        JsonFields fields = JsonFields.parse("state", node.toString().getBytes(StandardCharsets.UTF_8));
        assertThat(LossScaler.read(scaler.settings(), fields)).isEqualTo(scaler);
    }
}
