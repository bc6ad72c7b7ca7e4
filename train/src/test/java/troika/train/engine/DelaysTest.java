package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PipelineSchedule;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.train.TinyRun;

/// However long kernels and collectives take, on whichever lane of whichever rank, with and without overlap
/// and however far ahead weights are gathered, the bits are the same.
class DelaysTest {
    private static final int STEPS = 3;

    static List<TinyRun.Job> jobs() {
        TinyRun.Job job = TinyRun.job().batch(6);
        TinyRun.Job pipeline = job.in(Layout.grid(1, 1, 2)).accumulate(4);
        return List.of(
                job.ranks(2).zero(1).accumulate(2),
                job.ranks(2).zero(2),
                job.ranks(3).zero(1).of(DType.BF16),
                job.ranks(3).zero(2).accumulate(2).recomputing(),
                job.ranks(3).zero(3).accumulate(2),
                job.in(Layout.parse("0,1:dp2 | 2")).zero(3).accumulate(2),
                job.in(Layout.parse("0,1:tp2 | 2")).accumulate(2).of(DType.BF16),
                job.in(Layout.grid(1, 3, 1)),
                job.in(Layout.grid(1, 2, 1)).accumulate(3),
                pipeline.with(policies(0, PipelineSchedule.ZERO_BUBBLE, 1, true, 1)),
                pipeline.of(TinyRun.config(job.config(), 4))
                        .with(policies(3, PipelineSchedule.INTERLEAVED, 2, true, 1)));
    }

    private static Parallelism policies(
            int zero, PipelineSchedule schedule, int chunks, boolean overlap, int prefetch) {
        return new Parallelism(zero, schedule, chunks, false, DType.F32, overlap, prefetch, false);
    }

    @ParameterizedTest
    @MethodSource("jobs")
    @Timeout(120)
    void changeNoBit(TinyRun.Job job) {
        changeNoBit(job, 4);
    }

    /// The same, over and over.
    @ParameterizedTest
    @MethodSource("jobs")
    @Tag("stress")
    @Timeout(600)
    void changeNoBitHoweverOften(TinyRun.Job job) {
        changeNoBit(job, 200);
    }

    private static void changeNoBit(TinyRun.Job job, int repetitions) {
        TinyRun.Outcome expected = TinyRun.run(job, STEPS);
        Parallelism own = job.parallelism();
        for (int repetition = 0; repetition < repetitions; repetition++) {
            boolean overlap = repetition % 2 == 0;
            int prefetch = repetition / 2 % 2 == 0 ? 1 : 3;
            TinyRun.Job other = job.with(policies(own.zeroStage(), own.schedule(), own.chunks(), overlap, prefetch));
            TinyRun.Outcome delayed = delayed(other, repetition + 1);
            String what = "repetition " + repetition + ", " + other;
            assertThat(delayed.losses()).as(what).isEqualTo(expected.losses());
            assertThat(delayed.norms()).as(what).isEqualTo(expected.norms());
            assertThat(delayed.weights()).hasSameSizeAs(expected.weights());
            for (int weight = 0; weight < expected.weights().size(); weight++) {
                assertThat(delayed.weights().get(weight))
                        .as("weight " + weight + ", " + what)
                        .isEqualTo(expected.weights().get(weight));
            }
        }
    }

    private static TinyRun.Outcome delayed(TinyRun.Job job, long seed) {
        List<Device> devices = TinyRun.devices(job.ranks());
        TrainingPlan plan = job.plan();
        try (Engine engine = Delays.engine(List.of(plan.train(), plan.evaluate()), devices, seed)) {
            return TinyRun.run(job, plan, engine, STEPS);
        } finally {
            devices.forEach(Device::close);
        }
    }
}
