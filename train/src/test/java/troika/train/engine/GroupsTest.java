package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import troika.comm.Communicator;
import troika.comm.Communicators;
import troika.graph.Op;
import troika.plan.Instruction.Kind;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.plan.StepProgram;
import troika.plan.TrainingPlan;
import troika.tensor.Device;
import troika.tensor.Kernels;
import troika.tensor.Stream;
import troika.train.TinyRun;

/// Programs whose ranks meet in several groups and send to one another.
@Timeout(60)
class GroupsTest {
    /// Ranks 0 and 1 sum x, ranks 1 and 2 sum y, all sum z twice on two axes, and each passes its x on to the
    /// next rank, while it receives. Rank 2 reports nothing.
    private static StepProgram ring() {
        List<RankProgram> ranks = new ArrayList<>();
        for (int rank = 0; rank < 3; rank++) {
            Handmade program = new Handmade(rank)
                    .tensor("x", 5)
                    .tensor("y", 7)
                    .tensor("z", 3)
                    .tensor("received", 5)
                    .tensor("copy", 5)
                    .axis("world", 0, 1, 2)
                    .axis("again", 0, 1, 2);
            program.call(Kind.REDUCE, Lane.COMMUNICATION, -1, new Op.AllReduce("world"), List.of(), List.of("z"));
            program.call(Kind.REDUCE, Lane.TENSOR, -1, new Op.AllReduce("again"), List.of(), List.of("z"), 0);
            program.call(Kind.FORWARD, Lane.SEND, 0, new Op.Send((rank + 1) % 3), List.of("x"), List.of());
            program.call(Kind.FORWARD, Lane.RECEIVE, 0, new Op.Receive((rank + 2) % 3), List.of(), List.of("received"));
            program.call(Kind.FORWARD, Lane.COMPUTE, 0, new Op.Copy(), List.of("received"), List.of("copy"), 3);
            if (rank < 2) {
                program.axis("data", 0, 1)
                        .call(Kind.REDUCE, Lane.COMMUNICATION, 0, new Op.AllReduce("data"), List.of(), List.of("x"), 2);
            }
            if (rank > 0) {
                program.axis("tensor", 1, 2)
                        .call(Kind.FORWARD, Lane.TENSOR, 0, new Op.AllReduce("tensor"), List.of(), List.of("y"));
            }
            if (rank < 2) {
                program.call(Kind.REPORT, Lane.DOWNLOAD, -1, new Op.Copy(), List.of("x"), List.of("received"), 4, 5);
            }
            ranks.add(program.program());
        }
        return new StepProgram("ring", List.of("a", "b"), ranks);
    }

    @ParameterizedTest
    @CsvSource({"true,true", "true,false", "false,true"})
    void eachAxisHasItsRanks(boolean capture, boolean capturable) {
        List<Device> devices = TinyRun.devices(3);
        List<Integer> sizes = new ArrayList<>();
        AtomicInteger calls = new AtomicInteger();
        try (Engine engine = new Engine(
                List.of(ring(), ring()),
                devices,
                members -> {
                    sizes.add(members.size());
                    return watched(Communicators.create(members), capturable, calls);
                },
                capture)) {
            assertThat(sizes).containsExactlyInAnyOrder(2, 2, 3, 3, 3);
            int prepared = calls.get();
            assertThat(prepared).isEqualTo(capture && capturable ? 2 * 16 : 0);
            for (int execution = 1; execution <= 3; execution++) {
                for (int rank = 0; rank < 3; rank++) {
                    fill(engine, rank, "x", 5, rank + 1);
                    fill(engine, rank, "y", 7, rank + 1);
                    fill(engine, rank, "z", 3, rank + 1);
                }
                engine.execute(execution % 2);
                engine.drain();
                for (int rank = 0; rank < 3; rank++) {
                    assertThat(read(engine, rank, "x", 5)).containsOnly(3);
                    assertThat(read(engine, rank, "y", 7)).containsOnly(rank == 0 ? 1 : 5);
                    assertThat(read(engine, rank, "z", 3)).containsOnly(18);
                    assertThat(read(engine, rank, "copy", 5)).containsOnly((rank + 2) % 3 + 1);
                }
                // Those that cannot be captured are called at every execution, the others never again.
                assertThat(calls.get() - prepared).isEqualTo(capture && capturable ? 0 : 16 * execution);
            }
            // Of each sum of n elements over k ranks 2 (k − 1) n cross, for all ranks together.
            assertThat(IntStream.range(0, 3).mapToLong(engine::bytesReceived).sum())
                    .isEqualTo(3 * 4 * (2 * 5 + 2 * 7 + 2 * 4 * 3 + 3 * 5));
        } finally {
            devices.forEach(Device::close);
        }
    }

    private static List<Communicator> watched(List<Communicator> group, boolean capturable, AtomicInteger calls) {
        List<Communicator> watched = new ArrayList<>();
        for (Communicator communicator : group) {
            watched.add(Recording.wrap(Communicator.class, communicator, (target, method, arguments) -> {
                if (arguments.length > 0 && arguments[0] instanceof Stream) {
                    calls.incrementAndGet();
                }
                return method.getName().equals("capturable")
                        ? (Object) capturable
                        : Recording.call(target, method, arguments);
            }));
        }
        return watched;
    }

    private static void fill(Engine engine, int rank, String name, int n, float value) {
        float[] values = new float[n];
        Arrays.fill(values, value);
        engine.write(rank, name, 0, MemorySegment.ofArray(values));
    }

    private static float[] read(Engine engine, int rank, String name, int n) {
        float[] values = new float[n];
        engine.read(rank, name, 0, MemorySegment.ofArray(values));
        return values;
    }

    @Test
    void lanesWithoutInstructionsHaveNoStream() {
        List<Device> devices = TinyRun.devices(1);
        List<String> streams = new ArrayList<>();
        Device device = Recording.wrap(Device.class, devices.getFirst(), (target, method, arguments) -> {
            if (method.getName().equals("stream")) {
                streams.add((String) arguments[0]);
            }
            return Recording.call(target, method, arguments);
        });
        RankProgram program = new Handmade(0)
                .tensor("x", 1)
                .call(Kind.FORWARD, Lane.COMPUTE, 0, new Op.Zero(), List.of(), List.of("x"))
                .call(Kind.REPORT, Lane.DOWNLOAD, 0, new Op.Zero(), List.of(), List.of("x"), 0)
                .program();
        StepProgram step = new StepProgram("step", List.of("a"), List.of(program));
        try (Engine engine = new Engine(List.of(step), List.of(device), Communicators::create, true)) {
            engine.execute(0);
            assertThat(streams).containsExactlyInAnyOrder("compute 0", "download 0");
        } finally {
            devices.forEach(Device::close);
        }
    }

    @Test
    void anAxisThatRanksDoNotShareIsNamed() {
        List<Device> devices = TinyRun.devices(2);
        RankProgram first = new Handmade(0).axis("data", 0, 1).program();
        StepProgram alone = new StepProgram("train", List.of(), List.of(first, new Handmade(1).program()));
        assertThatThrownBy(() -> new Engine(List.of(alone), devices, Communicators::create, true))
                .hasMessage("rank 0 of program train has an axis data of ranks [0, 1], which rank 1 does not have");
        RankProgram other = new Handmade(1).axis("data", 0).program();
        StepProgram outside = new StepProgram("train", List.of(), List.of(new Handmade(0).program(), other));
        assertThatThrownBy(() -> new Engine(List.of(outside), devices, Communicators::create, true))
                .hasMessage("rank 1 of program train is not on its axis data of ranks [0]");
        devices.forEach(Device::close);
    }

    /// The kernels of one rank fail, in a program of data-parallel ranks: all end.
    @ParameterizedTest
    @ValueSource(ints = {0, 1, 2})
    @Timeout(20)
    void aFailingRankEndsAll(int failing) {
        TinyRun.Job job = TinyRun.job().ranks(3).zero(2).accumulate(2);
        List<Device> devices = new ArrayList<>(TinyRun.devices(3));
        TrainingPlan plan = job.plan();
        devices.set(failing, failing(devices.get(failing), "swigluBackward", 5));
        assertThatThrownBy(() -> {
                    try (Engine engine = Engine.inProcess(List.of(plan.train(), plan.evaluate()), devices)) {
                        TinyRun.run(job, plan, engine, 4);
                    }
                })
                .isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("out of cheese")
                .hasRootCauseMessage("out of cheese");
        devices.forEach(Device::close);
    }

    /// Rank 0 cannot send what it failed to compute, and itself waits for rank 1 before it would notice.
    @Test
    @Timeout(20)
    void aFailureThatNoReportWouldShowEndsAll() {
        Handmade first = new Handmade(0).tensor("x", 4).tensor("y", 4);
        first.call(Kind.FORWARD, Lane.COMPUTE, 0, new Op.Zero(), List.of(), List.of("x"));
        first.call(Kind.FORWARD, Lane.SEND, 0, new Op.Send(1), List.of("x"), List.of(), 0);
        first.call(Kind.FORWARD, Lane.RECEIVE, 0, new Op.Receive(1), List.of(), List.of("y"));
        first.call(Kind.REPORT, Lane.DOWNLOAD, 0, new Op.Copy(), List.of("y"), List.of("x"), 2);
        Handmade second = new Handmade(1).tensor("x", 4);
        second.call(Kind.FORWARD, Lane.RECEIVE, 0, new Op.Receive(0), List.of(), List.of("x"));
        second.call(Kind.FORWARD, Lane.SEND, 0, new Op.Send(0), List.of("x"), List.of(), 0);
        second.call(Kind.REPORT, Lane.DOWNLOAD, 0, new Op.Zero(), List.of(), List.of("x"), 1);
        StepProgram step = new StepProgram("step", List.of("a"), List.of(first.program(), second.program()));
        List<Device> devices = new ArrayList<>(TinyRun.devices(2));
        devices.set(0, failing(devices.getFirst(), "zero", 1));
        assertThatThrownBy(() -> {
                    try (Engine engine = Engine.inProcess(List.of(step), devices)) {
                        engine.execute(0);
                        engine.execute(0);
                    }
                })
                .hasMessage("rank 0 failed: out of cheese")
                .hasRootCauseMessage("out of cheese");
        devices.forEach(Device::close);
    }

    /// A device one of whose kernels fails when it runs, after it has run some times.
    private static Device failing(Device target, String kernel, int times) {
        AtomicInteger runs = new AtomicInteger();
        Kernels kernels = Recording.wrap(Kernels.class, target.kernels(), (real, method, arguments) -> {
            if (method.getName().equals(kernel)) {
                ((Stream) arguments[0]).enqueue(() -> {
                    if (runs.incrementAndGet() > times) {
                        throw new IllegalStateException("out of cheese");
                    }
                });
            }
            return Recording.call(real, method, arguments);
        });
        return Recording.wrap(
                Device.class,
                target,
                (device, method, arguments) ->
                        method.getName().equals("kernels") ? kernels : Recording.call(device, method, arguments));
    }

    /// Rank 1 computes block 0, rank 0 block 1 of it, with a sum over both between, and back: the cause is found
    /// where it is, though its instruction has the higher number there.
    @ParameterizedTest
    @CsvSource({"1,x,FORWARD,0", "1,back,BACKWARD_INPUT,0", "0,w,FORWARD,1", "0,v,BACKWARD_INPUT,1"})
    void theFirstNonFiniteIsTheCause(int rank, String tensor, String kind, int block) {
        Handmade first = new Handmade(1).axis("world", 0, 1);
        Handmade second = new Handmade(0).axis("world", 0, 1);
        for (String name : List.of("x", "y", "idle", "sum", "received", "back", "result")) {
            first.tensor(name, 4);
        }
        for (String name : List.of("received", "w", "y", "sum", "v", "back")) {
            second.tensor(name, 4);
        }
        first.call(Kind.INPUT, Lane.UPLOAD, -1, new Op.Zero(), List.of(), List.of("idle"))
                .call(Kind.INPUT, Lane.UPLOAD, -1, new Op.Zero(), List.of(), List.of("sum"))
                .call(Kind.FORWARD, Lane.COMPUTE, 0, new Op.Copy(), List.of("x"), List.of("y"))
                .call(Kind.FORWARD, Lane.SEND, 0, new Op.Send(0), List.of("y"), List.of(), 2)
                .call(Kind.FORWARD, Lane.RECEIVE, 0, new Op.Receive(0), List.of(), List.of("received"))
                .call(Kind.BACKWARD_INPUT, Lane.COMPUTE, 0, new Op.Add(), List.of("back"), List.of("received"), 4)
                .call(Kind.BACKWARD_INPUT, Lane.COMPUTE, 0, new Op.Copy(), List.of("received"), List.of("result"))
                .call(Kind.NORM, Lane.COMMUNICATION, -1, new Op.Copy(), List.of("result"), List.of("sum"), 6)
                .call(Kind.NORM, Lane.COMMUNICATION, -1, new Op.AllReduce("world"), List.of(), List.of("sum"))
                .call(Kind.REPORT, Lane.DOWNLOAD, -1, new Op.Copy(), List.of("sum"), List.of("idle"), 8);
        second.call(Kind.FORWARD, Lane.RECEIVE, 0, new Op.Receive(1), List.of(), List.of("received"))
                .call(Kind.FORWARD, Lane.COMPUTE, 1, new Op.Copy(), List.of("received"), List.of("y"), 0)
                .call(Kind.FORWARD, Lane.COMPUTE, 1, new Op.Add(), List.of("w"), List.of("y"))
                .call(Kind.BACKWARD_INPUT, Lane.COMPUTE, 1, new Op.Copy(), List.of("y"), List.of("back"))
                .call(Kind.BACKWARD_INPUT, Lane.COMPUTE, 1, new Op.Add(), List.of("v"), List.of("back"))
                .call(Kind.FORWARD, Lane.SEND, 1, new Op.Send(1), List.of("back"), List.of(), 4)
                .call(Kind.NORM, Lane.COMMUNICATION, -1, new Op.AllReduce("world"), List.of(), List.of("sum"))
                .call(Kind.REPORT, Lane.DOWNLOAD, -1, new Op.Zero(), List.of(), List.of("v"), 6);
        StepProgram step = new StepProgram("step", List.of("a", "b"), List.of(second.program(), first.program()));
        List<Device> devices = TinyRun.devices(2);
        try (Engine engine = Engine.inProcess(List.of(step), devices)) {
            fill(engine, rank, tensor, 4, Float.NaN);
            NonFinite found = engine.findNonFinite(0);
            assertThat(found.rank()).isEqualTo(rank);
            assertThat(found.where()).endsWith("first written by " + kind + " block " + block + " on rank " + rank);
            engine.write(rank, tensor, 0, MemorySegment.ofArray(new float[4]));
            engine.execute(0);
            engine.drain();
            engine.write(0, "sum", 0, MemorySegment.ofArray(new float[4]));
            assertThat(engine.findNonFinite(0).where()).isEqualTo("no tensor when the step was repeated");
        } finally {
            devices.forEach(Device::close);
        }
    }
}
