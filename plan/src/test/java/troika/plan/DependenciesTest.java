package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import troika.graph.Op;
import troika.tensor.DType;
import troika.tensor.Shape;

class DependenciesTest {
    @Property(tries = 400)
    void noTwoInstructionsRace(@ForAll long seed) {
        assertThat(new Order(Programs.assemble(Programs.random(seed))).races()).isEmpty();
    }

    @Property(tries = 40)
    void noTwoInstructionsOfACompiledProgramRace(
            @ForAll @IntRange(min = 1, max = 3) int ranks,
            @ForAll @IntRange(max = 2) int stage,
            @ForAll @IntRange(min = 1, max = 3) int accumulation,
            @ForAll @IntRange(min = 1, max = 5) int batch,
            @ForAll boolean recompute,
            @ForAll boolean bf16) {
        TrainingPlan plan = Programs.plan(
                ranks, Programs.options(bf16 ? DType.BF16 : DType.F32, batch, accumulation, stage, recompute));
        for (StepProgram program : List.of(plan.train(), plan.evaluate())) {
            for (RankProgram rank : program.ranks()) {
                assertThat(new Order(rank).races()).isEmpty();
            }
        }
    }

    /// The check finds what is missing: a program whose dependencies are taken away races.
    @Test
    void withoutDependenciesInstructionsRace() {
        int found = 0;
        for (long seed = 0; seed < 50; seed++) {
            RankProgram program = Programs.assemble(Programs.random(seed));
            boolean needed = program.instructions().stream()
                    .anyMatch(i -> !i.after().isEmpty() || !i.afterPrevious().isEmpty());
            List<Instruction> bare = new ArrayList<>();
            program.instructions()
                    .forEach(i -> bare.add(new Instruction(
                            i.id(), i.kind(), i.lane(), -1, -1, -1, List.of(), List.of(), i.calls(), 0, 0)));
            RankProgram mutant = new RankProgram(
                    0, program.deviceBytes(), program.hostBytes(), program.tensors(), program.axes(), bare);
            boolean races = !new Order(mutant).races().isEmpty();
            assertThat(races).isEqualTo(needed);
            found += races ? 1 : 0;
        }
        assertThat(found).isGreaterThan(25);
    }

    @Test
    void aReaderWaitsForTheWriterAndTheNextWriterForTheReader() {
        RankBuilder builder = new RankBuilder(0);
        int x = builder.allocate("x", TensorSpec.Role.INPUTS, false, DType.F32, new Shape(8));
        int half = builder.slice(x, "half", 4, DType.F32, new Shape(4));
        int other = builder.slice(x, "other half", 0, DType.F32, new Shape(4));
        int y = builder.allocate("y", TensorSpec.Role.INPUTS, false, DType.F32, new Shape(4));
        write(builder, Lane.UPLOAD, x);
        builder.emit(Instruction.Kind.FORWARD, Lane.COMPUTE, -1, -1, -1, List.of(RankTensors.copy(half, y)));
        write(builder, Lane.DOWNLOAD, other);
        List<Instruction> instructions = Programs.assemble(builder).instructions();
        assertThat(instructions.get(0).after()).isEmpty();
        assertThat(instructions.get(0).afterPrevious()).containsExactly(1, 2);
        assertThat(instructions.get(1).after()).containsExactly(0);
        assertThat(instructions.get(1).afterPrevious()).isEmpty();
        // The half that is copied is another.
        assertThat(instructions.get(2).after()).containsExactly(0);
    }

    private static void write(RankBuilder builder, Lane lane, int tensor) {
        builder.emit(
                Instruction.Kind.FORWARD,
                lane,
                -1,
                -1,
                -1,
                List.of(new Call(new Op.Zero(), List.of(), List.of(tensor))));
    }
}
