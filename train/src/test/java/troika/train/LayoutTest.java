package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import troika.model.ModelConfig;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PipelineSchedule;
import troika.tensor.DType;
import troika.train.config.Recompute;

class LayoutTest {
    private static final int STEPS = 20;
    private static final TinyRun.Outcome ONE_RANK = TinyRun.run(TinyRun.job(), STEPS);
    private static final TinyRun.Outcome ONE_RANK_BF16 =
            TinyRun.run(TinyRun.job().of(DType.BF16), STEPS);
    private static final TinyRun.Outcome ONE_RANK_TIED = TinyRun.run(tied(), STEPS);

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
                job.ranks(5).zero(2).accumulate(4),
                job.zero(3),
                job.ranks(2).zero(3),
                job.ranks(3).zero(3).accumulate(2),
                job.ranks(3).zero(3).recomputing(),
                job.ranks(5).zero(3).accumulate(3),
                job.ranks(3).zero(3).accumulate(2).with(policies(3, "1f1b", 1, false, true, 2, true)),
                tensor(2),
                // Two key-value heads on three tensor ranks.
                tensor(3),
                tensor(3).with(policies(0, "1f1b", 1, true, true, 1, false)),
                tensor(2).with(policies(0, "1f1b", 1, true, true, 1, false)).recomputing(),
                pipeline("0 | 1", "1f1b", 1),
                pipeline("0 | 1", "zero-bubble", 1),
                pipeline("0 | 1", "1f1b", 1).zero(3),
                job.in(Layout.grid(1, 2, 2)).accumulate(4),
                job.in(Layout.grid(2, 3, 1)),
                tensor(2).accumulate(3).zero(1),
                job.in(Layout.grid(2, 2, 1)).zero(2).accumulate(4).recomputing(),
                job.in(Layout.grid(2, 3, 1)).zero(1).recomputing(),
                job.in(Layout.grid(2, 2, 1)).zero(3).accumulate(2),
                job.in(Layout.grid(2, 1, 2)).zero(3).accumulate(2),
                job.in(Layout.parse("0,1:dp2 | 2")).accumulate(2),
                job.in(Layout.parse("0,1:dp2 | 2")).accumulate(2).zero(3),
                job.in(Layout.parse("0,1:tp2 | 2")).accumulate(3),
                job.in(Layout.parse("0 | 1,2:tp2")).accumulate(3).with(policies(0, "1f1b", 1, true, true, 1, false)),
                job.in(Layout.parse("0 | 1,2:dp2")).accumulate(2),
                job.in(Layout.dataParallel(3).withShares(List.of(1.0, 1.0, 0.6))),
                job.in(Layout.grid(1, 3, 1).withShares(List.of(1.0, 1.0, 0.6))),
                // The last replica has nothing to do.
                job.in(Layout.dataParallel(3).withShares(List.of(1.0, 1.0, 0.01))),
                job.in(Layout.dataParallel(3).withShares(List.of(1.0, 1.0, 0.01)))
                        .zero(2));
    }

    /// On four layers, for pipelines of more than two stages or chunks.
    static List<TinyRun.Job> deepLayouts() {
        TinyRun.Job job = deep();
        return List.of(
                job.in(Layout.grid(1, 1, 3)).accumulate(4),
                job.in(Layout.grid(1, 1, 3)).accumulate(4).with(policies(1, "zero-bubble", 1, false, true, 1, false)),
                job.in(Layout.grid(1, 1, 2)).accumulate(4).with(policies(0, "interleaved", 2, false, true, 1, false)),
                job.in(Layout.grid(1, 1, 2)).accumulate(3).with(policies(3, "interleaved", 2, false, true, 1, false)),
                job.in(Layout.grid(2, 1, 2)).accumulate(2).with(policies(3, "interleaved", 2, false, true, 1, true)),
                job.in(Layout.parse("0,1:dp2 | 2 | 3,4:tp2")).accumulate(2));
    }

    static List<TinyRun.Job> tiedLayouts() {
        TinyRun.Job job = tied();
        return List.of(
                job.ranks(3).zero(3),
                job.in(Layout.grid(1, 3, 1)),
                job.in(Layout.grid(1, 1, 2)).accumulate(3),
                job.in(Layout.grid(2, 1, 2)).zero(1).accumulate(2),
                job.in(Layout.grid(2, 1, 2)).zero(3).accumulate(2),
                job.in(Layout.parse("0,1:tp2 | 2")).accumulate(2),
                job.in(Layout.parse("0,1:dp2 | 2")).accumulate(2).zero(2),
                job.in(Layout.parse("0,1:tp2 | 2,3,4:tp3")).accumulate(2));
    }

    static List<TinyRun.Job> bf16Layouts() {
        TinyRun.Job job = TinyRun.job().of(DType.BF16);
        return List.of(
                job.ranks(3).zero(3),
                job.in(Layout.grid(1, 2, 1)),
                job.in(Layout.grid(1, 3, 1)).with(policies(0, "1f1b", 1, true, true, 1, false)),
                job.in(Layout.parse("0,1:tp2 | 2")).accumulate(2).with(policies(0, "1f1b", 1, true, true, 1, false)),
                job.in(Layout.parse("0,1:dp2 | 2")).accumulate(2).zero(3),
                job.ranks(3).with(communicating(0)),
                job.ranks(3).with(communicating(1)),
                job.ranks(3).with(communicating(2)),
                job.ranks(3).accumulate(2).with(communicating(3)));
    }

    /// Gradients travel in BF16.
    private static Parallelism communicating(int zero) {
        return new Parallelism(zero, PipelineSchedule.ONE_F_ONE_B, 1, false, DType.BF16, true, 1, false);
    }

    private static Parallelism policies(
            int zero, String schedule, int chunks, boolean sequence, boolean overlap, int prefetch, boolean once) {
        return new Parallelism(
                zero, PipelineSchedule.of(schedule), chunks, sequence, DType.F32, overlap, prefetch, once);
    }

    private static TinyRun.Job tensor(int ranks) {
        return TinyRun.job().in(Layout.grid(1, ranks, 1));
    }

    private static TinyRun.Job pipeline(String layout, String schedule, int chunks) {
        return TinyRun.job()
                .in(Layout.parse(layout))
                .accumulate(5)
                .with(policies(0, schedule, chunks, false, true, 1, false));
    }

    private static TinyRun.Job tied() {
        return TinyRun.job().of(TinyRun.config(true));
    }

    private static TinyRun.Job deep() {
        ModelConfig config = TinyRun.config(false);
        return TinyRun.job().of(TinyRun.config(config, 4));
    }

    @ParameterizedTest
    @MethodSource("layouts")
    void agreesWithOneRank(TinyRun.Job job) {
        check(ONE_RANK, job);
    }

    @ParameterizedTest
    @MethodSource("deepLayouts")
    void aDeeperModelAgreesWithOneRank(TinyRun.Job job) {
        check(TinyRun.run(deep(), STEPS), job);
    }

    @ParameterizedTest
    @MethodSource("tiedLayouts")
    void aTiedHeadAgreesWithOneRank(TinyRun.Job job) {
        check(ONE_RANK_TIED, job);
    }

    /// Sums are in another order, and are rounded to BF16 elsewhere.
    @ParameterizedTest
    @MethodSource("bf16Layouts")
    void agreesWithOneRankInBf16(TinyRun.Job job) {
        TinyRun.Outcome outcome = TinyRun.run(job, STEPS);
        for (int step = 0; step < STEPS; step++) {
            float expected = ONE_RANK_BF16.losses().get(step);
            assertThat(outcome.losses().get(step))
                    .as("loss of step %s", step + 1)
                    .isCloseTo(expected, within(1e-3f * expected));
            // Random tokens teach nothing: what went wrong shows here long before it shows in the loss.
            float norm = ONE_RANK_BF16.norms().get(step);
            assertThat(outcome.norms().get(step))
                    .as("norm of step %s", step + 1)
                    .isCloseTo(norm, within(5e-3f * norm));
        }
        for (int weight = 0; weight < outcome.weights().size(); weight++) {
            assertThat(TinyRun.distance(
                            ONE_RANK_BF16.weights().get(weight),
                            outcome.weights().get(weight)))
                    .isLessThan(5e-3);
        }
    }

    private static void check(TinyRun.Outcome oneRank, TinyRun.Job job) {
        TinyRun.Outcome outcome = TinyRun.run(job, STEPS);
        for (int step = 0; step < STEPS; step++) {
            float expected = oneRank.losses().get(step);
            assertThat(outcome.losses().get(step))
                    .as("loss of step %s", step + 1)
                    .isCloseTo(expected, within(TestDevices.layoutTolerance() * expected));
            float norm = oneRank.norms().get(step);
            assertThat(outcome.norms().get(step))
                    .as("norm of step %s", step + 1)
                    .isCloseTo(norm, within(1e-4f * norm));
        }
        assertThat(outcome.evaluation())
                .isCloseTo(oneRank.evaluation(), within(TestDevices.layoutTolerance() * oneRank.evaluation()));
        for (int weight = 0; weight < oneRank.weights().size(); weight++) {
            assertThat(TinyRun.distance(
                            oneRank.weights().get(weight), outcome.weights().get(weight)))
                    .isLessThan(1e-4);
        }
    }

    @ParameterizedTest
    @CsvSource({"ELEMENTWISE,1", "ELEMENTWISE,2", "LAYER,1", "LAYER,2"})
    void recomputationChangesNoBit(Recompute what, int ranks) {
        TinyRun.Job job = TinyRun.job().ranks(ranks).zero(1).accumulate(2).of(DType.BF16);
        TinyRun.Outcome stored = TinyRun.run(job, 5);
        same(stored, TinyRun.run(job.recomputing(what), 5));
    }

    /// Nor do overlap, prefetch and when weights are gathered.
    @ParameterizedTest
    @CsvSource({"0-2", "0,1:dp2 | 2", "0,1:tp2 | 2", "0 | 1"})
    void orderChangesNoBit(String layout) {
        TinyRun.Job job = TinyRun.job().in(Layout.parse(layout)).accumulate(2).of(DType.BF16);
        TinyRun.Outcome first = TinyRun.run(job.with(policies(3, "1f1b", 1, false, true, 1, false)), 5);
        same(first, TinyRun.run(job.with(policies(3, "1f1b", 1, false, false, 1, false)), 5));
        same(first, TinyRun.run(job.with(policies(3, "1f1b", 1, false, true, 3, false)), 5));
        same(first, TinyRun.run(job.with(policies(3, "1f1b", 1, false, true, 1, true)), 5));
    }

    /// Nor do turns of tensor-parallel ranks' microbatches, which there are with overlap only.
    @ParameterizedTest
    @CsvSource({"'0,1:tp2', false", "'0,1:tp2', true", "'0-3:dp2tp2', false"})
    void turnsChangeNoBit(String stage, boolean tied) {
        TinyRun.Job job = (tied ? tied() : TinyRun.job())
                .in(Layout.parse(stage))
                .accumulate(3)
                .of(DType.BF16);
        same(
                TinyRun.run(job.with(policies(1, "1f1b", 1, false, false, 1, false)), 5),
                TinyRun.run(job.with(policies(1, "1f1b", 1, false, true, 1, false)), 5));
    }

    private static void same(TinyRun.Outcome expected, TinyRun.Outcome actual) {
        assertThat(actual.losses()).isEqualTo(expected.losses());
        assertThat(actual.norms()).isEqualTo(expected.norms());
        for (int weight = 0; weight < expected.weights().size(); weight++) {
            assertThat(actual.weights().get(weight))
                    .isEqualTo(expected.weights().get(weight));
        }
    }

    @Test
    void theFirstLossIsThatOfChance() {
        assertThat(ONE_RANK.losses().getFirst()).isCloseTo((float) Math.log(101), within(0.1f));
    }
}
