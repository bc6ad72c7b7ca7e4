package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;
import troika.plan.Instruction;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.train.TinyRun;

/// How instructions are launched together.
class RunsTest {
    /// Each is launched for itself, so that the next step gathers the first weights when these are done.
    @Test
    void noGatherWaitsForUpdatesBehindItsOwn() {
        List<Instruction> instructions = program(TinyRun.job().ranks(2).zero(3)).instructions();
        Set<Integer> awaited = new HashSet<>();
        for (Instruction instruction : instructions) {
            if (instruction.lane() == Lane.COMMUNICATION) {
                awaited.addAll(instruction.after());
                awaited.addAll(instruction.afterPrevious());
            }
        }
        assertThat(awaited)
                .anyMatch(id -> instructions.get(id).kind() == Instruction.Kind.UPDATE)
                .anyMatch(id -> instructions.get(id).kind() == Instruction.Kind.BACKWARD_WEIGHT);
        for (List<Instruction> run : RankExecutor.runs(instructions, _ -> true)) {
            assertThat(run.subList(0, run.size() - 1)).noneMatch(instruction -> awaited.contains(instruction.id()));
        }
    }

    @Test
    void oneRankUpdatesAllInOneLaunch() {
        List<Instruction> instructions = program(TinyRun.job()).instructions();
        List<Instruction> updates = instructions.stream()
                .filter(instruction -> instruction.kind() == Instruction.Kind.UPDATE)
                .toList();
        assertThat(updates).hasSizeGreaterThan(1);
        assertThat(RankExecutor.runs(instructions, _ -> true)).anyMatch(run -> run.containsAll(updates));
    }

    private static RankProgram program(TinyRun.Job job) {
        return job.plan().train().ranks().getFirst();
    }
}
