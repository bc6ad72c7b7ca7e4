package troika.plan;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import troika.graph.Model;
import troika.graph.Op;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Programs for tests: random ones, which mean nothing, and compiled ones.
final class Programs {
    private static final int WORKSPACE = 1024;

    private Programs() {}

    /// Random calls on random slices of random buffers, in random lanes.
    static RankBuilder random(long seed) {
        Random random = new Random(seed);
        RankBuilder builder = new RankBuilder(0);
        int buffers = 1 + random.nextInt(6);
        for (int i = 0; i < buffers; i++) {
            boolean host = random.nextInt(5) == 0;
            TensorSpec.Role role =
                    host || random.nextInt(3) == 0 ? TensorSpec.Role.INPUTS : TensorSpec.Role.ACTIVATIONS;
            long elements = random.nextInt(300);
            int whole = builder.allocate("buffer " + i, role, host, DType.F32, new Shape(elements));
            for (int slice = random.nextInt(3); slice > 0; slice--) {
                long from = random.nextLong(elements + 1);
                long size = random.nextLong(elements - from + 1);
                builder.slice(whole, "slice " + i, from, DType.F32, new Shape(size));
            }
        }
        int tensors = builder.tensors().size();
        Set<Integer> unused = new TreeSet<>();
        for (int i = 0; i < buffers; i++) {
            unused.add(i);
        }
        for (int i = 2 + random.nextInt(12); i > 0; i--) {
            List<Call> calls = new ArrayList<>();
            for (int call = 1 + random.nextInt(2); call > 0; call--) {
                List<Integer> inputs = new ArrayList<>();
                for (int input = random.nextInt(3); input > 0; input--) {
                    inputs.add(random.nextInt(tensors + 1) - 1);
                }
                int output = random.nextInt(tensors);
                calls.add(new Call(new Op.Zero(), inputs, List.of(output)));
                unused.remove(builder.tensors().get(output).buffer());
            }
            Lane lane = Lane.values()[random.nextInt(Lane.values().length)];
            builder.emit(Instruction.Kind.FORWARD, lane, -1, -1, -1, calls);
        }
        for (int buffer : unused) {
            int whole = builder.find("buffer " + buffer);
            Call call = new Call(new Op.Zero(), List.of(), List.of(whole));
            builder.emit(Instruction.Kind.FORWARD, Lane.COMPUTE, -1, -1, -1, List.of(call));
        }
        return builder;
    }

    static RankProgram assemble(RankBuilder builder) {
        Placement places = new Placement(builder);
        return Assembly.program(builder, places, places.deviceBytes(), Map.of(), true);
    }

    static PlanOptions options(DType dtype, int batch, int accumulation, int zeroStage, boolean recompute) {
        return options(dtype, batch, accumulation, Parallelism.zero(zeroStage), recompute);
    }

    static PlanOptions options(DType dtype, int batch, int accumulation, Parallelism parallelism, boolean recompute) {
        return new PlanOptions(
                dtype,
                8,
                batch,
                accumulation,
                parallelism,
                recompute,
                false,
                true,
                DType.F32,
                0.9f,
                0.95f,
                1e-8f,
                0.1f,
                1f,
                WORKSPACE,
                4096);
    }

    static Model model(boolean tied) {
        return DeepSeekLlm.of(config(tied), 16);
    }

    static ModelConfig config(boolean tied) {
        return new ModelConfig(
                37, 32, 48, 2, 4, 2, 8, 16, 1e-6, 10000, 1, tied, OptionalInt.empty(), OptionalInt.of(36), "float32");
    }

    /// A plan for the tiny model, its head tied where activations are recomputed.
    static TrainingPlan plan(int ranks, PlanOptions options) {
        return plan(Layout.dataParallel(ranks), options);
    }

    /// A plan for the tiny model in a layout, its head tied where activations are recomputed.
    static TrainingPlan plan(Layout layout, PlanOptions options) {
        ModelConfig config = config(options.recompute());
        return new Compiler(tensor -> DeepSeekLlm.of(config, 16, tensor), layout, options).training();
    }
}
