package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import troika.graph.Op;
import troika.plan.CostModel;
import troika.plan.Instruction;
import troika.plan.Lane;
import troika.plan.Layout;
import troika.plan.Simulator;
import troika.plan.StepProgram;
import troika.plan.Timeline;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.train.TinyRun;

/// What is timed is the program: each instruction once a step, behind what it waits for, with the same results as
/// untimed.
class TimingsTest {
    private static final int STEPS = 5;
    private static final int FIRST = 2;
    private static final int TIMED = 3;
    /// Of a rank's clock against another's.
    private static final double SECONDS_APART = 5e-3;

    static List<TinyRun.Job> jobs() {
        TinyRun.Job job = TinyRun.job().of(DType.BF16);
        return List.of(
                job,
                job.ranks(2).zero(3).accumulate(2),
                job.in(Layout.grid(1, 2, 1)).accumulate(2),
                job.in(Layout.parse("0,1:dp2 | 2")).accumulate(2));
    }

    @ParameterizedTest
    @MethodSource("jobs")
    void areOfTheProgramAndChangeNothing(TinyRun.Job job) {
        List<Device> devices = TinyRun.devices(job.ranks());
        TrainingPlan plan = job.plan();
        TinyRun.Outcome outcome;
        Engine.Timings timings;
        try (Engine engine = Engine.inProcess(List.of(plan.train(), plan.evaluate()), devices)) {
            outcome = TinyRun.run(job, plan, engine, STEPS, step -> {
                if (step == FIRST) {
                    engine.time(0, TIMED);
                }
            });
            timings = engine.timings();
        } finally {
            devices.forEach(Device::close);
        }
        TinyRun.Outcome expected = TinyRun.run(job, STEPS);
        assertThat(outcome.losses()).isEqualTo(expected.losses());
        for (int weight = 0; weight < expected.weights().size(); weight++) {
            assertThat(outcome.weights().get(weight))
                    .isEqualTo(expected.weights().get(weight));
        }
        for (int rank = 0; rank < job.ranks(); rank++) {
            check(
                    plan.train().ranks().get(rank).instructions(),
                    timings.timeline().ranks().get(rank));
        }
        assertThat(timings.timeline().stepEnds()).hasSize(TIMED).isSorted();
        assertThat(timings.issueSeconds())
                .hasSize(job.ranks())
                .allSatisfy(seconds -> assertThat(seconds).isBetween(1e-6, 60.0));
        assertThat(timings.launchSeconds())
                .allSatisfy(seconds -> assertThat(seconds).isPositive());
    }

    private static void check(List<Instruction> instructions, List<Timeline.Span> spans) {
        Timeline.Span[][] at = new Timeline.Span[TIMED][instructions.size()];
        for (Timeline.Span span : spans) {
            assertThat(at[span.step()][span.instruction()]).isNull();
            at[span.step()][span.instruction()] = span;
        }
        assertThat(spans).hasSize(TIMED * instructions.size());
        double[] lanes = new double[Lane.values().length];
        Arrays.fill(lanes, -SECONDS_APART);
        for (int step = 0; step < TIMED; step++) {
            for (Instruction instruction : instructions) {
                Timeline.Span span = at[step][instruction.id()];
                assertThat(span.end()).as("%s", instruction).isGreaterThanOrEqualTo(span.start());
                assertThat(span.start())
                        .isGreaterThanOrEqualTo(lanes[span.lane().ordinal()]);
                lanes[span.lane().ordinal()] = span.end();
                for (int needed : instruction.after()) {
                    assertThat(span.start()).isGreaterThanOrEqualTo(at[step][needed].end());
                }
                for (int needed : step == 0 ? List.<Integer>of() : instruction.afterPrevious()) {
                    assertThat(span.start()).isGreaterThanOrEqualTo(at[step - 1][needed].end());
                }
            }
        }
    }

    /// Of a program that was timed whenever it ran, another's issue is not told instead.
    @Test
    void whatWasNeverIssuedAsCapturedHasNoSeconds() {
        TinyRun.Job job = TinyRun.job();
        List<Device> devices = TinyRun.devices(job.ranks());
        TrainingPlan plan = job.plan();
        Engine.Timings timings;
        try (Engine engine = Engine.inProcess(List.of(plan.train(), plan.evaluate()), devices)) {
            TinyRun.run(job, plan, engine, 1, step -> {
                if (step == 1) {
                    engine.time(0, 1);
                }
            });
            timings = engine.timings();
        } finally {
            devices.forEach(Device::close);
        }
        assertThat(timings.launchSeconds()).containsOnly(Double.NaN);
    }

    /// Devices have the rates that they are measured to have: a step's products and attention take as long as their
    /// FLOPs at the measured rates, and all ranks' collectives cost something.
    @Test
    void aMachineIsMeasuredForAProgram() {
        TinyRun.Job job = TinyRun.job().of(DType.BF16).in(Layout.grid(2, 2, 1));
        List<Device> devices = TinyRun.devices(job.ranks());
        StepProgram program = job.plan().train();
        CostModel cost;
        try {
            cost = Calibration.measure(program, devices);
        } finally {
            devices.forEach(Device::close);
        }
        assertThat(cost.cards()).hasSize(job.ranks()).allSatisfy(card -> {
            assertThat(card.flopsPerSecond()).isBetween(1e6, 1e16);
            assertThat(card.attentionFlopsPerSecond()).isBetween(1e5, 1e16);
            assertThat(card.bytesPerSecond()).isBetween(1e6, 1e14);
            assertThat(card.upBytesPerSecond()).isBetween(1e6, 1e13);
        });
        assertThat(cost.transferMicroseconds()).isBetween(0.1, 1e6);
        Timeline timeline = Simulator.simulate(program, cost);
        for (int rank = 0; rank < job.ranks(); rank++) {
            double products = 0;
            for (Instruction instruction : program.ranks().get(rank).instructions()) {
                for (var call : instruction.calls()) {
                    boolean attention = call.op() instanceof Op.Attention || call.op() instanceof Op.AttentionBackward;
                    CostModel.Card card = cost.cards().get(rank);
                    products += CostModel.flops(program.ranks().get(rank), call)
                            / (attention ? card.attentionFlopsPerSecond() : card.flopsPerSecond());
                }
            }
            assertThat(timeline.computeSeconds(rank)).isGreaterThanOrEqualTo(products);
            assertThat(timeline.communicationSeconds(rank)).isPositive();
        }
    }
}
