package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import troika.plan.Layout;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.train.TinyRun;

/// However long kernels and collectives take, on whichever lane of whichever rank, the bits are the same.
class DelaysTest {
    private static final int STEPS = 3;
    private static final int SEEDS = 10;

    static List<TinyRun.Job> jobs() {
        TinyRun.Job job = TinyRun.job().batch(6);
        return List.of(
                job.ranks(2).zero(1).accumulate(2),
                job.ranks(2).zero(2),
                job.ranks(2).zero(3).accumulate(2),
                job.in(Layout.parse("0,1:dp2 | 2")).accumulate(2),
                job.in(Layout.parse("0,1:tp2 | 2")).accumulate(2),
                job.in(Layout.parse("0,1,2:tp3")),
                job.ranks(3).zero(1).of(DType.BF16),
                job.ranks(3).zero(2).accumulate(2).recomputing());
    }

    @ParameterizedTest
    @MethodSource("jobs")
    @Timeout(120)
    void changeNoBit(TinyRun.Job job) {
        TinyRun.Outcome expected = TinyRun.run(job, STEPS);
        for (long seed = 1; seed <= SEEDS; seed++) {
            TinyRun.Outcome delayed = delayed(job, seed);
            assertThat(delayed.losses()).as("seed " + seed).isEqualTo(expected.losses());
            assertThat(delayed.norms()).as("seed " + seed).isEqualTo(expected.norms());
            assertThat(delayed.weights()).hasSameSizeAs(expected.weights());
            for (int group = 0; group < expected.weights().size(); group++) {
                assertThat(delayed.weights().get(group))
                        .as("group " + group + ", seed " + seed)
                        .isEqualTo(expected.weights().get(group));
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
