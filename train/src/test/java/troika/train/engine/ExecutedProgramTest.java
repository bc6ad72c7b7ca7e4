package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import troika.graph.Op;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PipelineSchedule;
import troika.plan.RankProgram;
import troika.plan.StepProgram;
import troika.plan.TensorSpec;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.train.TinyRun;
import troika.train.config.Recompute;

/// What the Engine does is the program: no call more, none less, none in another order or on other memory.
class ExecutedProgramTest {
    static List<TinyRun.Job> jobs() {
        TinyRun.Job job = TinyRun.job();
        return List.of(
                job.accumulate(2),
                job.ranks(2).zero(1).recomputing().of(DType.BF16),
                job.recomputing(Recompute.ELEMENTWISE),
                job.ranks(3).zero(2).accumulate(2),
                job.ranks(3),
                job.ranks(3).zero(3).accumulate(2),
                job.in(Layout.parse("0,1:dp2 | 2")).zero(3).accumulate(2),
                job.in(Layout.parse("0,1:tp2 | 2")).accumulate(2).of(DType.BF16),
                sequence(job.in(Layout.grid(1, 3, 1))),
                sequence(job.in(Layout.grid(2, 2, 1))).zero(1));
    }

    private static TinyRun.Job sequence(TinyRun.Job job) {
        return job.with(new Parallelism(0, PipelineSchedule.ONE_F_ONE_B, 1, true, DType.BF16, true, 1, false));
    }

    @ParameterizedTest
    @MethodSource("jobs")
    void isTheProgramCallForCall(TinyRun.Job job) {
        try (Recorded recorded = Recorded.of(job, true)) {
            TinyRun.run(job, recorded.plan(), recorded.engine(), 2);
            for (int program = 0; program < 2; program++) {
                StepProgram step = List.of(
                                recorded.plan().train(), recorded.plan().evaluate())
                        .get(program);
                List<List<Recording.Seen>> seen = recorded.execute(program);
                for (int rank = 0; rank < job.ranks(); rank++) {
                    assertThat(seen.get(rank)).isEqualTo(expected(recorded, step, rank));
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("jobs")
    void touchesTheRanksOwnArenasOnly(TinyRun.Job job) {
        try (Recorded recorded = Recorded.of(job, true)) {
            TinyRun.run(job, recorded.plan(), recorded.engine(), 2);
            recorded.execute(1);
            for (int rank = 0; rank < job.ranks(); rank++) {
                assertThat(recorded.engine().arenaBytes(rank))
                        .isEqualTo(recorded.plan().memory().get(rank).total())
                        .isEqualTo(recorded.recordings()
                                .get(rank)
                                .arenas()
                                .getFirst()
                                .bytes());
            }
            List<Memory> all = new ArrayList<>();
            for (Recording recording : recorded.recordings()) {
                assertThat(recording.foreign()).isEmpty();
                assertThat(recording.arenas()).hasSize(2);
                all.addAll(recording.arenas());
            }
            all.sort((a, b) -> Long.compare(a.address(), b.address()));
            for (int i = 1; i < all.size(); i++) {
                assertThat(all.get(i).address())
                        .isGreaterThanOrEqualTo(
                                all.get(i - 1).address() + all.get(i - 1).bytes());
            }
        }
    }

    @Test
    void theSameStepWithAndWithoutCapture() {
        TinyRun.Job job = TinyRun.job().ranks(2).zero(1).accumulate(2);
        TinyRun.Outcome captured = TinyRun.run(job, 3);
        try (Recorded recorded = Recorded.of(job, true)) {
            TinyRun.Outcome dispatched = TinyRun.run(job, recorded.plan(), recorded.engine(), 3);
            assertThat(dispatched.losses()).isEqualTo(captured.losses());
            assertThat(dispatched.norms()).isEqualTo(captured.norms());
        }
    }

    /// The comparison is worth something: whatever is changed in a program is seen.
    @ParameterizedTest
    @MethodSource("mutated")
    void everyMutationIsSeen(TinyRun.Job job) {
        List<Device> devices = TinyRun.devices(job.ranks());
        TrainingPlan plan = job.plan();
        Random random = new Random(2);
        for (int i = 0; i < 30; i++) {
            int changed = i % job.ranks();
            Mutant mutant = mutate(plan.train().ranks().get(changed), random, i % 5);
            List<RankProgram> ranks = new ArrayList<>(plan.train().ranks());
            ranks.set(changed, mutant.program());
            StepProgram step = new StepProgram("train", plan.train().blocks(), ranks);
            try (Recorded recorded = new Recorded(devices, plan, List.of(step), false)) {
                List<List<Recording.Seen>> seen = recorded.execute(0);
                for (int rank = 0; rank < job.ranks(); rank++) {
                    assertThat(seen.get(rank)).as(mutant.what()).isEqualTo(expected(recorded, step, rank));
                    List<Recording.Seen> unchanged = expected(recorded, plan.train(), rank);
                    assertThat(seen.get(rank).equals(unchanged))
                            .as(mutant.what())
                            .isEqualTo(rank != changed);
                }
            }
        }
    }

    static List<TinyRun.Job> mutated() {
        TinyRun.Job job = TinyRun.job().accumulate(2);
        return List.of(job.ranks(2).zero(1), job.ranks(2).zero(3), job.in(Layout.parse("0,1:tp2 | 2")));
    }

    /// A tensor elsewhere than in the rank's arenas is found out.
    @Test
    void foreignMemoryIsSeen() {
        TinyRun.Job job = TinyRun.job().ranks(2);
        List<Device> devices = TinyRun.devices(2);
        try (Recorded one = new Recorded(devices, job.plan(), programs(job), false)) {
            Recording recording = one.recordings().getFirst();
            Memory peers = one.recordings().get(1).arenas().getFirst();
            var stream = recording.device().stream("compute 0", null);
            recording.device().kernels().zero(stream, peers.tensor(0, DType.F32, Shape.of(4)));
            stream.close();
            assertThat(recording.foreign()).hasSize(1);
        }
    }

    static List<TinyRun.Job> layouts() {
        List<TinyRun.Job> layouts = new ArrayList<>();
        for (int ranks = 1; ranks <= 3; ranks++) {
            for (int stage = 0; stage <= 2; stage++) {
                layouts.add(TinyRun.job().ranks(ranks).zero(stage));
            }
        }
        layouts.add(TinyRun.job().ranks(3).zero(2).accumulate(2).of(DType.BF16));
        layouts.addAll(jobs());
        layouts.add(TinyRun.job().zero(3));
        layouts.add(TinyRun.job().in(Layout.grid(1, 1, 3)).accumulate(4).of(TinyRun.config(TinyRun.config(true), 4)));
        return layouts;
    }

    @ParameterizedTest
    @MethodSource("layouts")
    void asManyBytesCrossAsTheProgramSays(TinyRun.Job job) {
        try (Recorded recorded = Recorded.of(job, true)) {
            TinyRun.run(job, recorded.plan(), recorded.engine(), 1);
            for (int program = 0; program < 2; program++) {
                StepProgram step = List.of(
                                recorded.plan().train(), recorded.plan().evaluate())
                        .get(program);
                recorded.engine().drain();
                List<Long> before = received(recorded);
                recorded.execute(program);
                List<Long> after = received(recorded);
                for (int rank = 0; rank < job.ranks(); rank++) {
                    assertThat(after.get(rank) - before.get(rank))
                            .isEqualTo(bytes(step.ranks().get(rank), job.ranks()));
                }
                if (program == 0) {
                    assertThat(after.stream().mapToLong(Long::longValue).sum() > 0)
                            .isEqualTo(job.ranks() > 1);
                }
            }
        }
    }

    private static List<Long> received(Recorded recorded) {
        return IntStream.range(0, recorded.recordings().size())
                .mapToObj(recorded.engine()::bytesReceived)
                .toList();
    }

    /// What the collectives of a program bring to a rank. Of a sum over k ranks it computes its own part,
    /// from k − 1
    /// others; of a gather it gets what others hold.
    private static long bytes(RankProgram program, int ranks) {
        long bytes = 0;
        for (Instruction instruction : program.instructions()) {
            for (Call call : instruction.calls()) {
                if (!call.op().collective() || call.outputs().isEmpty()) {
                    continue;
                }
                TensorSpec out = program.tensors().get(call.outputs().getFirst());
                List<Integer> group = Expectation.group(program, ranks, call.op());
                int size = group.size();
                int index = group.indexOf(program.rank());
                long n = out.shape().elements();
                long own = n * (index + 1) / size - n * index / size;
                bytes += switch (call.op()) {
                    case Op.AllReduce _ -> out.dtype().bytes() * (own * (size - 1) + n - own);
                    case Op.ReduceScatter _ -> out.bytes() * (size - 1);
                    case Op.AllGather _ ->
                        out.bytes()
                                - program.tensors()
                                        .get(call.inputs().getFirst())
                                        .bytes();
                    default -> out.bytes();
                };
            }
        }
        return bytes;
    }

    private static List<StepProgram> programs(TinyRun.Job job) {
        return List.of(job.plan().train());
    }

    private static List<Recording.Seen> expected(Recorded recorded, StepProgram step, int rank) {
        return Expectation.of(
                step.ranks().get(rank),
                step.ranks().size(),
                recorded.recordings().get(rank).arenas());
    }

    private record Mutant(String what, RankProgram program) {}

    private static Mutant mutate(RankProgram program, Random random, int kind) {
        while (true) {
            List<List<Call>> calls = new ArrayList<>();
            program.instructions().forEach(instruction -> calls.add(new ArrayList<>(instruction.calls())));
            int at = random.nextInt(calls.size());
            int with = random.nextInt(calls.size());
            int i = random.nextInt(calls.get(at).size());
            int j = random.nextInt(calls.get(with).size());
            Call first = calls.get(at).get(i);
            Call second = calls.get(with).get(j);
            String what = "instruction " + at + ", call " + i + ": " + first + " ";
            switch (kind) {
                case 0 -> {
                    calls.get(at).remove(i);
                    what += "dropped";
                }
                case 1 -> {
                    calls.get(at).set(i, second);
                    calls.get(with).set(j, first);
                    what += "swapped with call " + j + " of " + with + ": " + second;
                }
                case 2 -> {
                    calls.get(at).add(i, first);
                    what += "done twice";
                }
                case 3 -> {
                    if (first.outputs().isEmpty() || second.outputs().isEmpty()) {
                        continue;
                    }
                    List<Integer> outputs = new ArrayList<>(first.outputs());
                    outputs.set(0, second.outputs().getFirst());
                    calls.get(at).set(i, new Call(first.op(), first.inputs(), outputs));
                    what += "written elsewhere";
                }
                default -> {
                    @Nullable Op op = first.op() instanceof Op.Accumulating a ? a.accumulating(!a.accumulate()) : null;
                    if (op == null) {
                        continue;
                    }
                    calls.get(at).set(i, new Call(op, first.inputs(), first.outputs()));
                    what += "accumulating or not";
                }
            }
            List<Instruction> instructions = new ArrayList<>();
            for (Instruction old : program.instructions()) {
                instructions.add(new Instruction(
                        old.id(),
                        old.kind(),
                        old.lane(),
                        old.block(),
                        old.group(),
                        old.microbatch(),
                        old.after(),
                        old.afterPrevious(),
                        calls.get(old.id()),
                        old.flops(),
                        old.bytes()));
            }
            // Equal calls swapped, or an output that stays, change nothing.
            if (!instructions.equals(program.instructions()) && writesElsewhere(program, first, second, kind)) {
                return new Mutant(
                        what,
                        new RankProgram(
                                program.rank(),
                                program.deviceBytes(),
                                program.hostBytes(),
                                program.tensors(),
                                program.axes(),
                                instructions));
            }
        }
    }

    /// Two tensors of the table may be the same memory: then a swap of them is no mutation.
    private static boolean writesElsewhere(RankProgram program, Call first, Call second, int kind) {
        if (kind != 3) {
            return true;
        }
        // An op that works in place names its memory by its inputs.
        TensorSpec a = program.tensors().get(first.outputs().getFirst());
        TensorSpec b = program.tensors().get(second.outputs().getFirst());
        return !(first.op() instanceof Op.Rope) && (a.offset() != b.offset() || a.host() != b.host());
    }
}
