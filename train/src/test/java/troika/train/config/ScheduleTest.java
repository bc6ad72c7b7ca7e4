package troika.train.config;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;

/// Against the formulas of transformers' optimization.py and DeepSpeed's lr_schedules.py, written down a
/// second time.
class ScheduleTest {
    private static final double PEAK = 3e-4;

    @Property(tries = 200)
    void linearIsTransformers(
            @ForAll @IntRange(max = 60) int warmup, @ForAll @IntRange(min = 61, max = 200) int total) {
        Schedule schedule = new Schedule(SchedulerType.LINEAR, PEAK, 0, 0, warmup, false, total);
        for (int step = 0; step <= total + 5; step++) {
            double factor = step < warmup
                    ? (double) step / Math.max(1, warmup)
                    : Math.max(0.0, (double) (total - step) / Math.max(1, total - warmup));
            assertThat(schedule.learningRate(step)).isEqualTo(PEAK * factor, within(1e-15));
        }
    }

    @Property(tries = 200)
    void cosineIsTransformers(
            @ForAll @IntRange(max = 60) int warmup, @ForAll @IntRange(min = 61, max = 200) int total) {
        double minRate = 0.1;
        Schedule schedule = new Schedule(SchedulerType.COSINE, PEAK, 0, minRate * PEAK, warmup, false, total);
        for (int step = 0; step <= total; step++) {
            double factor;
            if (step < warmup) {
                factor = (double) step / warmup;
            } else {
                double progress = (double) (step - warmup) / Math.max(1, total - warmup);
                factor = 0.5 * (1.0 + Math.cos(Math.PI * 0.5 * 2.0 * progress)) * (1 - minRate) + minRate;
            }
            assertThat(schedule.learningRate(step)).isEqualTo(PEAK * factor, within(1e-15));
        }
        assertThat(schedule.learningRate(total + 1000)).isEqualTo(minRate * PEAK, within(1e-15));
    }

    @Test
    void constantsStay() {
        assertThat(new Schedule(SchedulerType.CONSTANT, PEAK, 0, 0, 0, false, 5).learningRate(0))
                .isEqualTo(PEAK);
        Schedule warm = new Schedule(SchedulerType.CONSTANT_WITH_WARMUP, PEAK, 0, 0, 4, false, 5);
        assertThat(warm.learningRate(0)).isZero();
        assertThat(warm.learningRate(1)).isEqualTo(PEAK / 4);
        assertThat(warm.learningRate(4)).isEqualTo(PEAK);
        assertThat(warm.learningRate(400)).isEqualTo(PEAK);
    }

    @Test
    void logarithmicWarmupIsDeepSpeeds() {
        Schedule warm = new Schedule(SchedulerType.CONSTANT_WITH_WARMUP, 1, 0.2, 0, 100, true, 0);
        assertThat(warm.learningRate(0)).isEqualTo(0.2);
        assertThat(warm.learningRate(9)).isEqualTo(0.2 + 0.8 * 0.5, within(1e-12));
        assertThat(warm.learningRate(99)).isEqualTo(1, within(1e-12));
        assertThat(warm.learningRate(100)).isEqualTo(1);
        assertThat(new Schedule(SchedulerType.CONSTANT_WITH_WARMUP, 1, 0, 0, 1, true, 0).learningRate(0))
                .isZero();
    }

    @Test
    void aRunAsLongAsItsWarmupEndsAtThePeak() {
        Schedule schedule = new Schedule(SchedulerType.LINEAR, PEAK, 0, 0, 10, false, 10);
        assertThat(schedule.learningRate(9)).isEqualTo(PEAK * 0.9);
        assertThat(schedule.learningRate(10)).isEqualTo(PEAK);
    }
}
