package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.graph.Op;
import troika.tensor.DType;
import troika.tensor.Shape;

/// All ranks' programs together: played with collectives that wait for all of their ranks, they come to their end in
/// any order of lanes, and what meets has equal shapes.
class OrderOfRanksTest {
    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            value = {
                "0; 0; 1f1b; 1; 1; false",
                "0; 3; 1f1b; 1; 2; false",
                "0-2; 0; 1f1b; 1; 1; false",
                "0-2; 3; 1f1b; 1; 2; true",
                "0,1:tp2; 0; 1f1b; 1; 1; false",
                "0-2:tp3; 3; 1f1b; 1; 1; false",
                "0-2:tp3; 1; 1f1b; 1; 3; true",
                "0-3:dp2tp2; 2; 1f1b; 1; 4; false",
                "0-5:dp2tp3; 2; 1f1b; 1; 2; true",
                "0 | 1; 0; 1f1b; 1; 4; false",
                "0 | 1; 3; zero-bubble; 1; 4; true",
                "0 | 1; 1; interleaved; 1; 3; false",
                "0,1:dp2 | 2; 3; 1f1b; 1; 2; false",
                "0,1:tp2 | 2; 2; zero-bubble; 1; 3; true",
                "0 | 1,2:dp2; 3; zero-bubble; 1; 2; false",
                "0,1:tp2 | 2,3:tp2; 1; 1f1b; 1; 2; true",
                "0,1:dp2 | 2,3:tp2; 3; 1f1b; 1; 2; true",
            })
    void comesToItsEnd(String layout, int zeroStage, String schedule, int chunks, int accumulation, boolean recompute) {
        for (boolean sequence : List.of(false, true)) {
            for (DType travelling : List.of(DType.F32, DType.BF16)) {
                Parallelism parallelism = new Parallelism(
                        zeroStage,
                        PipelineSchedule.of(schedule),
                        chunks,
                        sequence,
                        travelling,
                        !sequence,
                        1,
                        zeroStage == 3 && sequence);
                TrainingPlan plan = Programs.plan(
                        Layout.parse(layout), Programs.options(DType.BF16, 7, accumulation, parallelism, recompute));
                for (StepProgram program : List.of(plan.train(), plan.evaluate())) {
                    for (RankProgram rank : program.ranks()) {
                        assertThat(new Order(rank).races()).isEmpty();
                    }
                    for (int seed = 0; seed < 3; seed++) {
                        play(program, new Random(seed));
                    }
                }
            }
        }
    }

    /// What an instruction meets the others with: who takes part, in words, and how much moves.
    private record Meeting(String name, List<Integer> ranks, List<Long> sizes) {}

    private static void play(StepProgram program, Random random) {
        int world = program.ranks().size();
        List<Map<Lane, List<Instruction>>> lanes = new ArrayList<>();
        int left = 0;
        for (RankProgram rank : program.ranks()) {
            Map<Lane, List<Instruction>> own = new HashMap<>();
            for (Instruction instruction : rank.instructions()) {
                own.computeIfAbsent(instruction.lane(), _ -> new ArrayList<>()).add(instruction);
            }
            lanes.add(own);
            left += rank.instructions().size();
        }
        List<boolean[]> done = new ArrayList<>();
        program.ranks().forEach(rank -> done.add(new boolean[rank.instructions().size()]));
        while (left > 0) {
            List<Runnable> choices = new ArrayList<>();
            int before = left;
            for (int rank = 0; rank < world; rank++) {
                for (List<Instruction> lane : lanes.get(rank).values()) {
                    if (lane.isEmpty() || !ready(lane.getFirst(), done.get(rank))) {
                        continue;
                    }
                    Meeting meeting = meeting(program.ranks().get(rank), lane.getFirst());
                    @Nullable List<int[]> met = met(program, lanes, done, rank, lane.getFirst(), meeting);
                    if (met != null) {
                        choices.add(() -> met.forEach(one -> {
                            done.get(one[0])[one[1]] = true;
                            lanes.get(one[0]).values().forEach(l -> l.removeIf(i -> i.id() == one[1]));
                        }));
                    }
                }
            }
            assertThat(choices).as("what can go on").isNotEmpty();
            choices.get(random.nextInt(choices.size())).run();
            left = lanes.stream()
                    .flatMap(own -> own.values().stream())
                    .mapToInt(List::size)
                    .sum();
            assertThat(left).isLessThan(before);
        }
    }

    private static boolean ready(Instruction instruction, boolean[] done) {
        return instruction.after().stream().allMatch(id -> done[id]);
    }

    /// The instructions, by rank and id, that run together with this one; null where another rank is not ready.
    private static @Nullable List<int[]> met(
            StepProgram program,
            List<Map<Lane, List<Instruction>>> lanes,
            List<boolean[]> done,
            int rank,
            Instruction instruction,
            Meeting meeting) {
        List<int[]> met = new ArrayList<>();
        for (int other : meeting.ranks()) {
            if (other == rank) {
                met.add(new int[] {rank, instruction.id()});
                continue;
            }
            Lane lane = meeting.name().startsWith("Send")
                    ? Lane.RECEIVE
                    : meeting.name().startsWith("Receive") ? Lane.SEND : instruction.lane();
            List<Instruction> theirs = lanes.get(other).getOrDefault(lane, List.of());
            if (theirs.isEmpty() || !ready(theirs.getFirst(), done.get(other))) {
                return null;
            }
            Meeting own = meeting(program.ranks().get(other), theirs.getFirst());
            if (!own.ranks().contains(rank)
                    || own.ranks().size() != meeting.ranks().size()) {
                return null;
            }
            if (instruction.lane() == lane) {
                assertThat(own).isEqualTo(meeting);
            } else {
                assertThat(own.sizes()).isEqualTo(meeting.sizes());
            }
            met.add(new int[] {other, theirs.getFirst().id()});
        }
        return met;
    }

    private static Meeting meeting(RankProgram program, Instruction instruction) {
        List<String> names = new ArrayList<>();
        List<Long> sizes = new ArrayList<>();
        List<Integer> ranks = List.of(program.rank());
        for (Call call : instruction.calls()) {
            switch (call.op()) {
                case Op.AllReduce op ->
                    ranks = meet(program, op.axis(), call.outputs().getFirst(), names, sizes);
                case Op.ReduceScatter op ->
                    ranks = meet(program, op.axis(), call.inputs().getFirst(), names, sizes);
                case Op.AllGather op ->
                    ranks = meet(program, op.axis(), call.outputs().getFirst(), names, sizes);
                case Op.Send op -> {
                    names.add("Send");
                    sizes.add(program.tensors().get(call.inputs().getFirst()).bytes());
                    ranks = List.of(program.rank(), op.rank());
                }
                case Op.Receive op -> {
                    names.add("Receive");
                    sizes.add(program.tensors().get(call.outputs().getFirst()).bytes());
                    ranks = List.of(op.rank(), program.rank());
                }
                default -> {}
            }
        }
        return new Meeting(String.join(" ", names), ranks, sizes);
    }

    private static List<Integer> meet(
            RankProgram program, String axis, int tensor, List<String> names, List<Long> sizes) {
        names.add(axis);
        sizes.add(program.tensors().get(tensor).bytes());
        List<Integer> ranks = program.axes().stream()
                .filter(a -> a.name().equals(axis))
                .findFirst()
                .orElseThrow()
                .ranks();
        assertThat(ranks).contains(program.rank());
        return ranks;
    }

    @Test
    void weightsOfZero3AreShards() {
        PlanOptions options = Programs.options(DType.BF16, 6, 1, Parallelism.zero(3), false);
        TrainingPlan plan = Programs.plan(Layout.dataParallel(3), options);
        for (int rank = 0; rank < 3; rank++) {
            for (ParameterGroup group : plan.groups().get(rank)) {
                RankProgram program = plan.train().ranks().get(rank);
                Shape shard = new Shape(group.elements() / 3);
                for (String name : List.of("weights:", "master:", "moment1:", "moment2:", "gradients:")) {
                    assertThat(program.tensor(name + group.name()).shape()).isEqualTo(shard);
                }
            }
        }
    }
}
