package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.plan.Compiler;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PlanOptions;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.train.TinyRun;

/// The first value that is not finite is found, and whose it is.
class NonFiniteTest {
    /// Only one sequence has labels, so that only its gradients can overflow.
    @ParameterizedTest
    @CsvSource({"1, 1, 0", "1, 1, 15", "1, 1, 5", "3, 1, 9", "2, 3, 11"})
    void namesTheSequence(int ranks, int accumulation, int sequence) {
        TinyRun.Job job = TinyRun.job().of(DType.F16);
        List<Device> devices = TinyRun.devices(ranks);
        PlanOptions options = new PlanOptions(
                DType.F16,
                TinyRun.SEQUENCE,
                16,
                accumulation,
                Parallelism.zero(0),
                false,
                false,
                true,
                DType.F32,
                0.9f,
                0.95f,
                1e-8f,
                0.1f,
                1f,
                TinyRun.needs(ranks).workspaceBytes(),
                // Chunks of 64 rows.
                64L * 101);
        TrainingPlan plan = new Compiler(_ -> job.model(), Layout.dataParallel(ranks), options).training();
        try (Engine engine = Engine.inProcess(List.of(plan.train(), plan.evaluate()), devices)) {
            TinyRun.Overflow overflow = TinyRun.overflow(job, plan, engine, sequence);
            assertThat(overflow.found().where()).startsWith("tensor head.gradLogits of block head");
            assertThat(overflow.sequence()).isEqualTo(sequence);
        } finally {
            devices.forEach(Device::close);
        }
    }
}
