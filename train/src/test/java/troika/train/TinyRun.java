package troika.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.TreeMap;
import java.util.function.Function;
import java.util.function.IntConsumer;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.plan.Compiler;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.ParameterGroup;
import troika.plan.PlanOptions;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.train.config.Recompute;
import troika.train.data.BatchCursor;
import troika.train.data.Dataset;
import troika.train.data.SyntheticDataset;
import troika.train.engine.Engine;
import troika.train.engine.NonFinite;

/// A tiny training job, in any layout: what the tests of programs and layouts run.
public final class TinyRun {
    public static final int SEQUENCE = 24;

    private TinyRun() {}

    /// What is varied.
    public record Job(
            ModelConfig config,
            DType dtype,
            Layout layout,
            int batch,
            int accumulation,
            Parallelism parallelism,
            Recompute recompute) {
        public Model model() {
            return DeepSeekLlm.of(config, SEQUENCE);
        }

        public int ranks() {
            return layout.worldSize();
        }

        public TrainingPlan plan() {
            DeviceNeeds needs = needs(ranks());
            PlanOptions options = new PlanOptions(
                    dtype,
                    SEQUENCE,
                    batch,
                    accumulation,
                    parallelism,
                    recompute == Recompute.LAYER,
                    recompute == Recompute.ELEMENTWISE,
                    true,
                    DType.F32,
                    0.9f,
                    0.95f,
                    1e-8f,
                    0.1f,
                    1f,
                    needs.workspaceBytes(),
                    needs.logitsAtATime());
            return new Compiler(tensor -> DeepSeekLlm.of(config, SEQUENCE, tensor), layout, options).training();
        }

        public Job ranks(int n) {
            return in(Layout.dataParallel(n));
        }

        public Job in(Layout other) {
            return new Job(config, dtype, other, batch, accumulation, parallelism, recompute);
        }

        public Job zero(int stage) {
            return with(new Parallelism(
                    stage,
                    parallelism.schedule(),
                    parallelism.chunks(),
                    parallelism.sequence(),
                    parallelism.communication(),
                    parallelism.overlap(),
                    parallelism.prefetch(),
                    parallelism.gatherOnce()));
        }

        public Job with(Parallelism other) {
            return new Job(config, dtype, layout, batch, accumulation, other, recompute);
        }

        public Job of(ModelConfig other) {
            return new Job(other, dtype, layout, batch, accumulation, parallelism, recompute);
        }

        public Job batch(int sequences) {
            return new Job(config, dtype, layout, sequences, accumulation, parallelism, recompute);
        }

        public Job accumulate(int n) {
            return new Job(config, dtype, layout, batch, n, parallelism, recompute);
        }

        public Job recomputing() {
            return recomputing(Recompute.LAYER);
        }

        public Job recomputing(Recompute what) {
            return new Job(config, dtype, layout, batch, accumulation, parallelism, what);
        }

        public Job of(DType type) {
            return new Job(config, type, layout, batch, accumulation, parallelism, recompute);
        }
    }

    /// 16 sequences a step on one rank, fp32, with fewer key-value heads than heads.
    public static Job job() {
        return new Job(config(false), DType.F32, Layout.dataParallel(1), 16, 1, Parallelism.zero(0), Recompute.NONE);
    }

    public static ModelConfig config(boolean tied) {
        return new ModelConfig(
                101,
                64,
                88,
                2,
                4,
                2,
                16,
                64,
                1e-6,
                10000,
                1,
                tied,
                OptionalInt.empty(),
                OptionalInt.of(100),
                "float32");
    }

    /// The same with another number of layers.
    public static ModelConfig config(ModelConfig from, int layers) {
        return new ModelConfig(
                from.vocabSize(),
                from.hiddenSize(),
                from.intermediateSize(),
                layers,
                from.heads(),
                from.keyValueHeads(),
                from.headDim(),
                from.maxPositions(),
                from.rmsNormEpsilon(),
                from.ropeTheta(),
                from.ropeScalingFactor(),
                from.tieWordEmbeddings(),
                from.bosTokenId(),
                from.eosTokenId(),
                from.dtype());
    }

    /// One device a rank: the CPU's, or those that `troika.test.devices` names.
    public static List<Device> devices(int ranks) {
        return TestDevices.open(ranks);
    }

    /// What a plan for them must know.
    public static DeviceNeeds needs(int ranks) {
        return TestDevices.needs(ranks);
    }

    /// What a run showed.
    ///
    /// @param evaluation the loss of the last batch after the last step
    /// @param weights the final masters, whole, in the order of the weights' names
    public record Outcome(List<Float> losses, List<Float> norms, float evaluation, List<float[]> weights) {}

    public static Outcome run(Job job, int steps) {
        return run(job, steps, plan -> plan);
    }

    public static Outcome run(Job job, int steps, Function<TrainingPlan, TrainingPlan> change) {
        List<Device> devices = devices(job.ranks());
        TrainingPlan plan = change.apply(job.plan());
        try (Engine engine = Engine.inProcess(List.of(plan.train(), plan.evaluate()), devices)) {
            return run(job, plan, engine, steps);
        } finally {
            devices.forEach(Device::close);
        }
    }

    public static Outcome run(Job job, TrainingPlan plan, Engine engine, int steps) {
        return run(job, plan, engine, steps, _ -> {});
    }

    /// @param beforeStep gets each step's number, from 1, when its inputs are in host memory
    public static Outcome run(Job job, TrainingPlan plan, Engine engine, int steps, IntConsumer beforeStep) {
        RankMemory memory = RankMemory.of(engine, plan.train());
        Layout layout = plan.layout();
        new ModelState(memory, job.config(), job.model(), layout, plan.groups(), true).initialize(7);
        Dataset data = new SyntheticDataset(job.config().vocabSize(), SEQUENCE, 3);
        Feed feed = new Feed(memory, plan.microbatches(), SEQUENCE);
        List<Float> losses = new ArrayList<>();
        List<Float> norms = new ArrayList<>();
        MemorySegment report = engine.host(0, 0, "host report");
        BatchCursor cursor = BatchCursor.START;
        for (int step = 1; step <= steps; step++) {
            BatchCursor.Batch batch = cursor.next(data, job.batch());
            cursor = batch.after();
            long targets = feed.fill(data, batch);
            feed.scalars(
                    3e-4, 1 / (1 - Math.pow(0.9, step)), 1 / Math.sqrt(1 - Math.pow(0.95, step)), 0, 1.0 / targets, 1);
            beforeStep.accept(step);
            engine.execute(0);
            losses.add(report.getAtIndex(ValueLayout.JAVA_FLOAT, 1));
            norms.add(report.getAtIndex(ValueLayout.JAVA_FLOAT, 2));
        }
        engine.execute(engine.program("evaluate"));
        float evaluation = report.getAtIndex(ValueLayout.JAVA_FLOAT, 1);
        engine.drain();
        return new Outcome(losses, norms, evaluation, wholeMasters(memory, layout, plan));
    }

    /// The masters of all weights, whole, in the order of their names.
    private static List<float[]> wholeMasters(RankMemory memory, Layout layout, TrainingPlan plan) {
        TreeMap<String, float[]> weights = new TreeMap<>();
        for (int rank = 0; rank < plan.groups().size(); rank++) {
            for (ParameterGroup group : plan.groups().get(rank)) {
                for (int i = 0; i < group.parameters().size(); i++) {
                    Parameter parameter = group.parameters().get(i);
                    int elements = (int) parameter.portion().whole().elements();
                    float[] whole = weights.computeIfAbsent(parameter.name(), _ -> new float[elements]);
                    Layout.Place place = layout.place(rank);
                    new Holder(rank, place.stage(), place.replica(), group, i)
                            .read(
                                    memory,
                                    "master:" + group.name(),
                                    0,
                                    elements,
                                    MemorySegment.ofArray(whole),
                                    size -> MemorySegment.ofArray(new byte[(int) size]));
                }
            }
        }
        return List.copyOf(weights.values());
    }

    /// Where gradients overflowed first.
    ///
    /// @param sequence its number in the batch
    public record Overflow(NonFinite found, int sequence) {}

    /// Runs a step whose loss scale is too large, on a batch in which one sequence alone has labels.
    public static Overflow overflow(Job job, TrainingPlan plan, Engine engine, int sequence) {
        RankMemory memory = RankMemory.of(engine, plan.train());
        Layout layout = plan.layout();
        new ModelState(memory, job.config(), job.model(), layout, plan.groups(), true).initialize(7);
        Dataset data = new SyntheticDataset(job.config().vocabSize(), SEQUENCE, 3);
        Feed feed = new Feed(memory, plan.microbatches(), SEQUENCE);
        feed.fill(data, BatchCursor.START.next(data, job.batch()));
        long bytes = 4L * SEQUENCE;
        MemorySegment own = MemorySegment.ofArray(new int[SEQUENCE]);
        MemorySegment other = MemorySegment.ofArray(new int[SEQUENCE]);
        data.read(sequence, MemorySegment.ofArray(new int[SEQUENCE]), own, other);
        for (int rank = 0; rank < plan.microbatches().size(); rank++) {
            for (int m = 0; m < plan.microbatches().get(rank).size(); m++) {
                MemorySegment labels = engine.host(rank, 0, "host labels " + m);
                for (long at = 0; at < labels.byteSize(); at += bytes) {
                    if (labels.asSlice(at, bytes).mismatch(own) >= 0) {
                        labels.asSlice(at, bytes).fill((byte) Dataset.IGNORED);
                    }
                }
            }
        }
        feed.scalars(3e-4, 1, 1, 0, 0x1p30 / SEQUENCE, 0x1p-30);
        engine.execute(0);
        NonFinite found = engine.findNonFinite(0);
        return new Overflow(found, feed.sequence(found.rank(), found.microbatch(), found.token()));
    }

    /// The norm of the difference of two tensors of one size, in units of the expected one's norm.
    static double distance(float[] expected, float[] actual) {
        assertThat(actual).hasSameSizeAs(expected);
        double difference = 0;
        double norm = 0;
        for (int i = 0; i < expected.length; i++) {
            difference += Math.pow(expected[i] - actual[i], 2);
            norm += Math.pow(expected[i], 2);
        }
        return Math.sqrt(difference / norm);
    }
}
