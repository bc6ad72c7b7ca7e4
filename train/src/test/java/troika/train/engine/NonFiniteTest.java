package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.model.DeepSeekLlm;
import troika.plan.Compiler;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.ParameterGroup;
import troika.plan.PipelineSchedule;
import troika.plan.PlanOptions;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.train.TinyRun;

/// The first value that is not finite is found, and whose it is.
class NonFiniteTest {
    /// Only one sequence has labels, so that only its gradients can overflow.
    @ParameterizedTest
    @CsvSource({
        "0, false, 1, 0",
        "0, false, 1, 15",
        "0, false, 1, 5",
        "0-2, false, 1, 9",
        "'0,1', false, 3, 11",
        "'0,1:tp2', false, 1, 2",
        "'0,1:tp2', true, 1, 7",
        "'0,1:tp2', true, 2, 14",
    })
    void namesTheSequence(String layout, boolean split, int accumulation, int sequence) {
        TinyRun.Job job = TinyRun.job().of(DType.F16);
        Layout shared = Layout.parse(layout);
        List<Device> devices = TinyRun.devices(shared.worldSize());
        TrainingPlan plan = plan(job, shared, accumulation, split);
        try (Engine engine = Engine.inProcess(List.of(plan.train(), plan.evaluate()), devices)) {
            TinyRun.Overflow overflow = TinyRun.overflow(job, plan, engine, sequence);
            assertThat(overflow.found().where()).startsWith("tensor head.gradLogits of block head");
            assertThat(overflow.sequence()).isEqualTo(sequence);
        } finally {
            devices.forEach(Device::close);
        }
    }

    private static TrainingPlan plan(TinyRun.Job job, Layout layout, int accumulation, boolean split) {
        PlanOptions options = new PlanOptions(
                DType.F16,
                TinyRun.SEQUENCE,
                16,
                accumulation,
                new Parallelism(
                        0, PipelineSchedule.ONE_F_ONE_B, 1, split, DType.F32, true, Parallelism.PREFETCH, false),
                false,
                false,
                true,
                DType.F32,
                0.9f,
                0.95f,
                1e-8f,
                0.1f,
                1f,
                TinyRun.needs(layout.worldSize()).workspaceBytes(),
                // Chunks of 64 rows, or with a vocabulary in two parts of 96.
                64L * 101);
        return new Compiler(tensor -> DeepSeekLlm.of(job.config(), TinyRun.SEQUENCE, tensor), layout, options)
                .training();
    }

    /// Only one sequence's embeddings are not zero, and a norm, which has some rows of the microbatch on each rank,
    /// makes them too large.
    @ParameterizedTest
    @CsvSource({"false, 3", "false, 13", "true, 3", "true, 8", "true, 13"})
    void namesTheSequenceOfRowsThatRanksShare(boolean split, int sequence) {
        TinyRun.Job job = TinyRun.job().of(DType.F16);
        List<Device> devices = TinyRun.devices(2);
        TrainingPlan plan = plan(job, Layout.parse("0,1:tp2"), 1, split);
        short one = Float.floatToFloat16(1);
        short large = Float.floatToFloat16(60000);
        try (Engine engine = Engine.inProcess(List.of(plan.train()), devices)) {
            for (int rank = 0; rank < 2; rank++) {
                engine.host(rank, 0, "host tokens 0").fill((byte) 0);
                for (int i = 0; i < TinyRun.SEQUENCE; i++) {
                    engine.host(rank, 0, "host tokens 0")
                            .setAtIndex(ValueLayout.JAVA_INT, (long) sequence * TinyRun.SEQUENCE + i, 1);
                }
                engine.write(
                        rank, "weight:embedding.weight", job.config().hiddenSize(), MemorySegment.ofArray(new short[] {
                            one
                        }));
                short[] norm = new short[job.config().hiddenSize()];
                Arrays.fill(norm, large);
                engine.write(rank, "weight:layers.0.attention.norm", 0, MemorySegment.ofArray(norm));
            }
            engine.execute(0);
            NonFinite found = engine.findNonFinite(0);
            assertThat(found.where()).contains("of block layers.0, first written by FORWARD");
            assertThat(found.token()).isEqualTo((long) sequence * TinyRun.SEQUENCE);
            assertThat(found.rank()).isEqualTo(split && sequence >= 8 ? 1 : 0);
        } finally {
            devices.forEach(Device::close);
        }
    }

    /// A weight, which may be in a shard only, is named, and no sequence.
    @ParameterizedTest
    @CsvSource({"0, 1", "0, 3", "'0,1', 2", "0-2, 3", "'0 | 1,2', 3"})
    void namesTheWeight(String layout, int stage) {
        TinyRun.Job job = TinyRun.job().in(Layout.parse(layout)).zero(stage).of(DType.BF16);
        List<Device> devices = TinyRun.devices(job.ranks());
        TrainingPlan plan = job.plan();
        int rank = job.ranks() - 1;
        ParameterGroup group = plan.groups().get(rank).stream()
                .filter(of -> of.name().equals("layers.1"))
                .findFirst()
                .orElseThrow();
        try (Engine engine = Engine.inProcess(List.of(plan.train()), devices)) {
            String weights = "weights:layers.1";
            long shard = engine.elements(rank, weights);
            long start =
                    shard == group.elements() ? 0 : job.layout().place(rank).replica() * shard;
            for (int i = 0; i < group.parameters().size(); i++) {
                long last = group.offsets().get(i) + group.parameters().get(i).elements() - 1 - start;
                if (last < 0 || last >= shard) {
                    continue;
                }
                MemorySegment nan = MemorySegment.ofArray(new short[] {0x7fc0});
                engine.write(rank, weights, last, nan);
                NonFinite found = engine.findNonFinite(0);
                assertThat(found.where())
                        .isEqualTo("tensor weight:" + group.parameters().get(i).name() + " of block layers.1 on rank "
                                + rank);
                assertThat(found.token()).isNegative();
                assertThat(found.microbatch()).isNegative();
                engine.write(rank, weights, last, MemorySegment.ofArray(new short[1]));
            }
            assertThat(engine.findNonFinite(0).where()).doesNotContain("weight");
        } finally {
            devices.forEach(Device::close);
        }
    }
}
