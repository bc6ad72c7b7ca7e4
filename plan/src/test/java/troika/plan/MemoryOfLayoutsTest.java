package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.tensor.DType;

/// What ranks hold in a layout.
class MemoryOfLayoutsTest {
    private static long bytes(MemoryPlan memory, TensorSpec.Role role) {
        return memory.bytes().getOrDefault(role, 0L);
    }

    @ParameterizedTest
    @CsvSource({"1", "2", "3", "5"})
    void zero3HoldsAnNthOfWeightsGradientsAndStates(int ranks) {
        PlanOptions options = Programs.options(DType.BF16, 10, 2, Parallelism.zero(3), true);
        TrainingPlan plan = Programs.plan(Layout.dataParallel(ranks), options);
        for (int rank = 0; rank < ranks; rank++) {
            long shard = plan.groups().get(rank).stream()
                    .mapToLong(group -> group.elements() / ranks)
                    .sum();
            MemoryPlan memory = plan.memory().get(rank);
            assertThat(bytes(memory, TensorSpec.Role.WEIGHTS)).isEqualTo(2 * shard);
            assertThat(bytes(memory, TensorSpec.Role.MASTER_WEIGHTS)).isEqualTo(4 * shard);
            assertThat(bytes(memory, TensorSpec.Role.MOMENTS)).isEqualTo(8 * shard);
            assertThat(bytes(memory, TensorSpec.Role.GRADIENTS)).isEqualTo(4 * shard);
        }
    }

    /// Those of as many microbatches as the schedule keeps in flight, however many there are; the more the earlier
    /// the stage. (The inputs of all microbatches are there for the whole step, and counted elsewhere.)
    @ParameterizedTest
    @CsvSource({"ONE_F_ONE_B", "ZERO_BUBBLE"})
    void activationsAreBoundedByTheSchedule(PipelineSchedule schedule) {
        Layout layout = Layout.grid(1, 1, 2);
        for (int stage = 0; stage < 2; stage++) {
            assertThat(activations(layout, schedule, 8, stage)).isEqualTo(activations(layout, schedule, 16, stage));
        }
    }

    @Test
    void anEarlierStageKeepsMore() {
        Layout layout = Layout.parse("0 | 1");
        long all = activations(Layout.dataParallel(1), PipelineSchedule.ONE_F_ONE_B, 1, 0);
        assertThat(activations(layout, PipelineSchedule.ONE_F_ONE_B, 8, 0)).isLessThan(2 * all);
    }

    /// One sequence a microbatch.
    private static long activations(Layout layout, PipelineSchedule schedule, int microbatches, int rank) {
        Parallelism parallelism = new Parallelism(0, schedule, 1, false, DType.F32, true, 1, false);
        PlanOptions options = Programs.options(DType.BF16, microbatches, microbatches, parallelism, false);
        return bytes(Programs.plan(layout, options).memory().get(rank), TensorSpec.Role.ACTIVATIONS);
    }
}
