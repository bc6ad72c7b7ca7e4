package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import troika.comm.Communicators;
import troika.plan.Instruction;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PipelineSchedule;
import troika.plan.RankProgram;
import troika.plan.StepProgram;
import troika.plan.TensorSpec;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.train.TinyRun;
import troika.train.config.Recompute;

/// Any order that the declared dependencies allow gives the Engine's bits.
class ShuffledTest {
    private static final int STEPS = 3;

    /// What an Engine made of a job, and with which inputs.
    ///
    /// @param states the device arenas before the first step
    /// @param inputs by step: the host arenas
    private record Reference(
            StepProgram program,
            List<byte[]> states,
            List<List<byte[]>> inputs,
            List<Float> losses,
            List<Float> norms,
            List<Map<String, byte[]>> contents) {}

    static List<TinyRun.Job> jobs() {
        TinyRun.Job job = small();
        List<TinyRun.Job> jobs = new ArrayList<>();
        for (int stage = 0; stage <= 2; stage++) {
            jobs.add(job.ranks(2).zero(stage));
            jobs.add(job.ranks(3).zero(stage).accumulate(2));
        }
        jobs.add(job.accumulate(2));
        jobs.add(job.of(DType.BF16).recomputing());
        jobs.add(job.of(DType.BF16).recomputing(Recompute.ELEMENTWISE));
        jobs.add(job.of(DType.BF16).ranks(2).zero(1).recomputing().accumulate(2));
        jobs.add(job.of(DType.BF16).ranks(3).zero(2).accumulate(3));
        // More microbatches than sequences: some ranks have nothing to compute and still take part.
        jobs.add(job.ranks(3).zero(2).accumulate(2).batch(5));
        for (int prefetch = 1; prefetch <= 3; prefetch += 2) {
            jobs.add(job.ranks(3).accumulate(2).with(policies(3, PipelineSchedule.ONE_F_ONE_B, 1, prefetch)));
        }
        jobs.add(job.in(Layout.parse("0,1:dp2 | 2")).zero(3).accumulate(2));
        jobs.add(job.in(Layout.parse("0,1:tp2 | 2")).accumulate(2).of(DType.BF16));
        jobs.add(job.in(Layout.grid(1, 3, 1)));
        jobs.add(job.in(Layout.grid(1, 2, 1)).accumulate(3));
        TinyRun.Job pipeline = job.in(Layout.grid(1, 1, 2)).accumulate(4);
        jobs.add(pipeline.with(policies(0, PipelineSchedule.ZERO_BUBBLE, 1, 1)));
        jobs.add(pipeline.of(TinyRun.config(job.config(), 4)).with(policies(3, PipelineSchedule.INTERLEAVED, 2, 1)));
        return jobs;
    }

    private static Parallelism policies(int zero, PipelineSchedule schedule, int chunks, int prefetch) {
        return new Parallelism(zero, schedule, chunks, false, DType.F32, true, prefetch, false);
    }

    private static TinyRun.Job small() {
        return TinyRun.job().batch(6);
    }

    /// No pipelines: a transfer there also waits for all that its peer waits for, which may be this rank.
    static List<TinyRun.Job> fewRanks() {
        return List.of(small().ranks(2).zero(1), small().ranks(2).zero(3), small().in(Layout.grid(1, 2, 1)));
    }

    @ParameterizedTest
    @MethodSource("jobs")
    void anyAllowedOrderGivesTheSameBits(TinyRun.Job job) {
        Reference reference = reference(job);
        int outOfOrder = 0;
        for (long seed = 1; seed <= 3; seed++) {
            Outcome outcome = shuffled(reference.program(), reference, seed, -1);
            assertThat(outcome.difference()).as("seed " + seed).isEmpty();
            outOfOrder += outcome.outOfOrder();
        }
        // One rank has little to choose from.
        assertThat(outOfOrder).isGreaterThan(job.ranks() == 1 ? 0 : 10);
    }

    /// Without its dependencies a program is wrong in the order that is drawn.
    @Test
    void withoutDependenciesTheBitsDiffer() {
        for (TinyRun.Job job : List.of(
                small(),
                small().ranks(2).zero(1).accumulate(2),
                small().ranks(2).zero(3),
                small().in(Layout.grid(1, 2, 1)),
                small().in(Layout.grid(1, 1, 2)).accumulate(2))) {
            Reference reference = reference(job);
            StepProgram bare = change(reference.program(), i -> with(i, List.of(), List.of()));
            assertThat(shuffled(bare, reference, 1, -1).difference()).isPresent();
        }
    }

    /// Each dependency that others do not imply is needed: where it is missing, an order that delays the
    /// instruction
    /// waited for shows it.
    @ParameterizedTest
    @MethodSource("fewRanks")
    void everyMissingDependencyShows(TinyRun.Job job) {
        Reference reference = reference(job);
        List<String> unseen = new ArrayList<>();
        Set<Integer> sound = new HashSet<>();
        int tried = 0;
        RankProgram first = reference.program().ranks().getFirst();
        for (Instruction instruction : first.instructions()) {
            for (int previous = 0; previous < 2; previous++) {
                for (int needed : previous == 1 ? instruction.afterPrevious() : instruction.after()) {
                    boolean fromPrevious = previous == 1;
                    StepProgram mutant = changeFirst(
                            reference.program(),
                            i -> i.id() != instruction.id()
                                    ? i
                                    : with(
                                            i,
                                            fromPrevious ? i.after() : without(i.after(), needed),
                                            fromPrevious ? without(i.afterPrevious(), needed) : i.afterPrevious()));
                    if (implied(mutant.ranks().getFirst(), instruction.id(), needed, fromPrevious)) {
                        continue;
                    }
                    tried++;
                    if (sound.add(needed)) {
                        assertThat(shuffled(reference.program(), reference, 1, needed)
                                        .difference())
                                .isEmpty();
                    }
                    if (shuffled(mutant, reference, 1, needed).difference().isEmpty()) {
                        unseen.add(instruction
                                + (fromPrevious ? " after the previous " : " after ")
                                + first.instructions().get(needed));
                    }
                }
            }
        }
        assertThat(tried).isGreaterThan(10);
        assertThat(unseen).isEmpty();
    }

    private static List<Integer> without(List<Integer> list, int needed) {
        return list.stream().filter(id -> id != needed).toList();
    }

    /// Whether lanes and the other dependencies of a program make `instruction` wait for `needed` anyway.
    private static boolean implied(RankProgram program, int instruction, int needed, boolean previous) {
        int count = program.instructions().size();
        boolean[] reached = new boolean[2 * count];
        reached[(previous ? 0 : count) + needed] = true;
        for (int i = 0; i < 2 * count; i++) {
            Instruction at = program.instructions().get(i % count);
            int step = i / count;
            for (int j = 0; j < i; j++) {
                int other = j % count;
                boolean sameStep = j / count == step;
                if (reached[j]
                        && (program.instructions().get(other).lane() == at.lane()
                                || (sameStep && at.after().contains(other))
                                || (!sameStep && at.afterPrevious().contains(other)))) {
                    reached[i] = true;
                }
            }
        }
        return reached[count + instruction];
    }

    private interface Change {
        Instruction of(Instruction instruction);
    }

    /// Changes the first rank's program.
    private static StepProgram changeFirst(StepProgram program, Change change) {
        List<RankProgram> ranks = new ArrayList<>(program.ranks());
        ranks.set(0, change(program, change).ranks().getFirst());
        return new StepProgram(program.name(), program.blocks(), ranks);
    }

    private static StepProgram change(StepProgram program, Change change) {
        return new StepProgram(
                program.name(),
                program.blocks(),
                program.ranks().stream()
                        .map(rank -> new RankProgram(
                                rank.rank(),
                                rank.deviceBytes(),
                                rank.hostBytes(),
                                rank.tensors(),
                                rank.axes(),
                                rank.instructions().stream().map(change::of).toList()))
                        .toList());
    }

    private static Instruction with(Instruction i, List<Integer> after, List<Integer> afterPrevious) {
        return new Instruction(
                i.id(),
                i.kind(),
                i.lane(),
                i.block(),
                i.group(),
                i.microbatch(),
                after,
                afterPrevious,
                i.calls(),
                i.flops(),
                i.bytes());
    }

    private static Reference reference(TinyRun.Job job) {
        try (Recorded recorded = Recorded.of(job, true)) {
            List<byte[]> states = new ArrayList<>();
            List<List<byte[]>> inputs = new ArrayList<>();
            TinyRun.Outcome outcome = TinyRun.run(job, recorded.plan(), recorded.engine(), STEPS, step -> {
                recorded.engine().drain();
                List<byte[]> hosts = new ArrayList<>();
                for (Recording recording : recorded.recordings()) {
                    Memory arena = recording.arenas().getFirst();
                    if (step == 1) {
                        states.add(read(recording.device(), arena, 0, arena.bytes()));
                    }
                    Memory host = recording.arenas().get(1);
                    hosts.add(read(recording.device(), host, 0, host.bytes()));
                }
                inputs.add(hosts);
            });
            List<Map<String, byte[]>> contents = new ArrayList<>();
            StepProgram program = recorded.plan().train();
            for (RankProgram rank : program.ranks()) {
                Recording recording = recorded.recordings().get(rank.rank());
                Map<String, byte[]> own = new HashMap<>();
                for (TensorSpec tensor : rank.tensors()) {
                    if (Shuffled.lasting(tensor)) {
                        own.put(
                                tensor.name(),
                                read(
                                        recording.device(),
                                        recording.arenas().getFirst(),
                                        tensor.offset(),
                                        tensor.bytes()));
                    }
                }
                contents.add(own);
            }
            return new Reference(program, states, inputs, outcome.losses(), outcome.norms(), contents);
        }
    }

    private static byte[] read(Device device, Memory memory, long offset, long length) {
        byte[] bytes = new byte[Math.toIntExact(length)];
        device.read(memory.tensor(offset, DType.BF16, new Shape(length / 2)), MemorySegment.ofArray(bytes));
        return bytes;
    }

    /// @param difference what is not the Engine's
    private record Outcome(Optional<String> difference, int outOfOrder) {}

    private static Outcome shuffled(StepProgram program, Reference reference, long seed, int delayed) {
        int ranks = program.ranks().size();
        List<Device> devices = TinyRun.devices(ranks);
        Groups groups = new Groups(List.of(program), devices, Communicators::create);
        List<Shuffled> executors = new ArrayList<>();
        List<Thread> threads = new ArrayList<>();
        AtomicReference<@Nullable Throwable> failure = new AtomicReference<>();
        try {
            for (int rank = 0; rank < ranks; rank++) {
                executors.add(new Shuffled(
                        program.ranks().get(rank),
                        devices.get(rank),
                        groups.of(0, rank),
                        31 * seed + rank,
                        rank == 0 ? delayed : -1));
                int own = rank;
                threads.add(Thread.ofPlatform().daemon().start(() -> {
                    try {
                        executors
                                .get(own)
                                .run(
                                        reference.states().get(own),
                                        reference.inputs().stream()
                                                .map(inputs -> inputs.get(own))
                                                .toList());
                    } catch (Throwable e) {
                        failure.compareAndSet(null, e);
                        groups.abort(e);
                    }
                }));
            }
            for (Thread thread : threads) {
                thread.join();
            }
            Throwable cause = failure.get();
            if (cause != null) {
                throw new IllegalStateException(cause);
            }
            return new Outcome(
                    difference(executors, reference),
                    executors.stream().mapToInt(Shuffled::outOfOrder).sum());
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        } finally {
            executors.forEach(Shuffled::close);
            groups.close();
        }
    }

    private static Optional<String> difference(List<Shuffled> executors, Reference reference) {
        for (int step = 0; step < STEPS; step++) {
            float[] report = executors.getFirst().reports().get(step);
            if (report[1] != reference.losses().get(step)
                    || report[2] != reference.norms().get(step)) {
                return Optional.of("loss " + report[1] + " and norm " + report[2] + " in step " + step);
            }
        }
        for (int rank = 0; rank < executors.size(); rank++) {
            Map<String, byte[]> expected = reference.contents().get(rank);
            Map<String, byte[]> actual = executors.get(rank).contents();
            if (!expected.keySet().equals(actual.keySet())) {
                return Optional.of("other tensors");
            }
            int own = rank;
            Optional<String> other = expected.keySet().stream()
                    .filter(name ->
                            MemorySegment.ofArray(expected.get(name)).mismatch(MemorySegment.ofArray(actual.get(name)))
                                    >= 0)
                    .map(name -> name + " on rank " + own)
                    .findFirst();
            if (other.isPresent()) {
                return other;
            }
        }
        return Optional.empty();
    }
}
