package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;
import troika.tensor.DType;
import troika.train.config.Recompute;

class LayoutTest {
    private static final int STEPS = 20;
    private static final TinyRun.Outcome ONE_RANK = TinyRun.run(TinyRun.job(), STEPS);

    static List<TinyRun.Job> layouts() {
        TinyRun.Job job = TinyRun.job();
        return List.of(
                job.accumulate(16),
                job.accumulate(3),
                job.ranks(2),
                job.ranks(3),
                job.ranks(3).accumulate(2),
                job.ranks(2).zero(1),
                job.ranks(3).zero(1),
                job.ranks(3).zero(1).accumulate(4).recomputing(),
                job.ranks(3).zero(2),
                job.ranks(3).zero(2).accumulate(3),
                job.ranks(5).zero(2).accumulate(4));
    }

    @ParameterizedTest
    @MethodSource("layouts")
    void agreesWithOneRank(TinyRun.Job job) {
        TinyRun.Outcome outcome = TinyRun.run(job, STEPS);
        for (int step = 0; step < STEPS; step++) {
            float expected = ONE_RANK.losses().get(step);
            assertThat(outcome.losses().get(step)).isCloseTo(expected, within(1e-5f * expected));
            float norm = ONE_RANK.norms().get(step);
            assertThat(outcome.norms().get(step)).isCloseTo(norm, within(1e-4f * norm));
        }
        for (int group = 0; group < ONE_RANK.weights().size(); group++) {
            assertThat(TinyRun.distance(
                            ONE_RANK.weights().get(group), outcome.weights().get(group)))
                    .isLessThan(1e-4);
        }
    }

    @ParameterizedTest
    @EnumSource(
            value = Recompute.class,
            names = {"ELEMENTWISE", "LAYER"})
    void recomputationChangesNoBit(Recompute what) {
        TinyRun.Job job = TinyRun.job().ranks(2).zero(1).accumulate(2).of(DType.BF16);
        TinyRun.Outcome stored = TinyRun.run(job, 5);
        TinyRun.Outcome recomputed = TinyRun.run(job.recomputing(what), 5);
        assertThat(recomputed.losses()).isEqualTo(stored.losses());
        assertThat(recomputed.norms()).isEqualTo(stored.norms());
        for (int group = 0; group < stored.weights().size(); group++) {
            assertThat(recomputed.weights().get(group))
                    .isEqualTo(stored.weights().get(group));
        }
    }

    @Test
    void theFirstLossIsThatOfChance() {
        assertThat(ONE_RANK.losses().getFirst()).isCloseTo((float) Math.log(101), within(0.1f));
    }
}
