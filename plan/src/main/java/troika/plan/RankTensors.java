package troika.plan;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import troika.graph.Model;
import troika.graph.Op;
import troika.graph.Parameter;
import troika.tensor.DType;
import troika.tensor.Shape;

/// The tensors of a rank that last from one execution to the next: weights, optimizer states,
/// gradients, inputs.
///
/// Their names, by which the Engine loads and saves them: `weights:GROUP`, `master:GROUP`,
/// `moment1:GROUP`, `moment2:GROUP`, `gradients:GROUP` are flat over a [ParameterGroup] or, of those that
/// are sharded, over this rank's shard of it; `host tokens 0`, `host labels 0`, `host positions 0`, … by
/// microbatch, `host scalars` and `host report` are what the host writes and reads.
final class RankTensors {
    /// The scalars of a step, uploaded together: learning rate, bias corrections and seed, as AdamW reads
    /// them, then what the loss is multiplied by and the inverse of the loss scale.
    private static final int SCALARS = 6;

    private static final List<String> BATCH_INPUTS = List.of("tokens", "labels", "positions");
    private static final List<String> DECODING_INPUTS = List.of("tokens", "positions");

    private final RankPart part;
    private final PlanOptions options;
    private final RankBuilder builder;
    private final Map<String, Integer> parameters = new HashMap<>();
    private final Map<String, Integer> globals = new HashMap<>();
    private final List<Integer> weights = new ArrayList<>();

    RankTensors(RankPart part, PlanOptions options) {
        this.part = part;
        this.options = options;
        this.builder = new RankBuilder(part.rank());
        builder.allocate(
                "workspace:" + Lane.COMPUTE,
                TensorSpec.Role.WORKSPACE,
                false,
                DType.I32,
                new Shape(options.workspaceBytes() / 4));
        for (ParameterGroup group : part.groups()) {
            int flat = builder.allocate(
                    "weights:" + group.name(),
                    TensorSpec.Role.WEIGHTS,
                    false,
                    options.dtype(),
                    shardedWeights() ? shard(group) : new Shape(group.elements()));
            weights.add(flat);
            if (!shardedWeights()) {
                parameters.putAll(slices(flat, group));
            }
        }
        for (Model.Constant constant : part.model().constants()) {
            globals.put(constant.name(), device(constant.name(), DType.F32, constant.shape()));
        }
    }

    private RankTensors(RankTensors from, RankBuilder builder) {
        part = from.part;
        options = from.options;
        this.builder = builder;
        parameters.putAll(from.parameters);
        globals.putAll(from.globals);
        weights.addAll(from.weights);
    }

    /// The same tensors, in a copy of the builder.
    RankTensors on(RankBuilder copy) {
        return new RankTensors(this, copy);
    }

    /// Adds what training needs.
    void addTraining() {
        for (ParameterGroup group : part.groups()) {
            Shape full = new Shape(group.elements());
            Shape own = sharded() ? shard(group) : full;
            if (options.dtype() == DType.F32) {
                long start = sharded() && !shardedWeights() ? shardStart(group) : 0;
                builder.slice(weights.get(group.index()), "master:" + group.name(), start, DType.F32, own);
            } else {
                builder.allocate("master:" + group.name(), TensorSpec.Role.MASTER_WEIGHTS, false, DType.F32, own);
            }
            builder.allocate("moment1:" + group.name(), TensorSpec.Role.MOMENTS, false, options.moments(), own);
            builder.allocate("moment2:" + group.name(), TensorSpec.Role.MOMENTS, false, options.moments(), own);
            builder.allocate(
                    "gradients:" + group.name(),
                    TensorSpec.Role.GRADIENTS,
                    false,
                    DType.F32,
                    shardedGradients(group) ? own : full);
        }
        addInputs();
        int stats = device("stats", DType.F32, new Shape(2));
        builder.slice(stats, "sumSquares", 0, DType.F32, new Shape(1));
        int loss = builder.slice(stats, "loss", 1, DType.F32, new Shape(1));
        // The loss counts once, though all tensor-parallel ranks have it.
        globals.put("loss", part.place().tensor() == 0 ? loss : device("loss elsewhere", DType.F32, new Shape(1)));
        device("clip", DType.F32, new Shape(2));
        int scalars = device("scalars", DType.F32, new Shape(SCALARS));
        builder.slice(scalars, "optimizer", 0, DType.F32, new Shape(4));
        globals.put("scale", builder.slice(scalars, "scale", 4, DType.F32, new Shape(1)));
        builder.slice(scalars, "unscale", 5, DType.F32, new Shape(1));
        host("host scalars", DType.F32, new Shape(SCALARS));
        int report = host("host report", DType.F32, new Shape(4));
        builder.slice(report, "host stats", 0, DType.F32, new Shape(2));
        builder.slice(report, "host loss", 1, DType.F32, new Shape(1));
        builder.slice(report, "host clip", 2, DType.F32, new Shape(2));
    }

    /// Adds what decoding needs: one token and its position.
    void addDecoding() {
        for (String name : DECODING_INPUTS) {
            device(name + " 0", DType.I32, new Shape(1));
            host("host " + name + " 0", DType.I32, new Shape(1));
        }
    }

    private void addInputs() {
        for (int m = 0; m < part.microbatches().size(); m++) {
            Shape shape = new Shape((long) part.microbatches().get(m).sequences() * options.sequence());
            for (String name : BATCH_INPUTS) {
                device(name + " " + m, DType.I32, shape);
                host("host " + name + " " + m, DType.I32, shape);
            }
        }
    }

    RankPart part() {
        return part;
    }

    RankBuilder builder() {
        return builder;
    }

    private int zeroStage() {
        return options.parallelism().zeroStage();
    }

    /// Whether a rank keeps only its shard of the optimizer states (ZeRO-1).
    boolean sharded() {
        return (zeroStage() >= 1 && part.shards() > 1) || shardedWeights();
    }

    /// Whether a step keeps only its shard of a group's summed gradients (ZeRO-2).
    boolean shardedGradients(ParameterGroup group) {
        // What another stage holds too is summed with that stage's, whole.
        return zeroStage() >= 2 && sharded() && !part.tied(group);
    }

    /// Whether a rank keeps only its shard of the weights (ZeRO-3).
    boolean shardedWeights() {
        return zeroStage() >= 3;
    }

    /// The shape of a shard of a group.
    Shape shard(ParameterGroup group) {
        return new Shape(group.elements() / part.shards());
    }

    /// The first element of this rank's shard.
    long shardStart(ParameterGroup group) {
        return part.place().replica() * (group.elements() / part.shards());
    }

    /// A tensor for each weight of a group within its flat weights, by name.
    Map<String, Integer> slices(int flat, ParameterGroup group) {
        Map<String, Integer> slices = new HashMap<>();
        for (int i = 0; i < group.parameters().size(); i++) {
            Parameter parameter = group.parameters().get(i);
            slices.put(
                    parameter.name(),
                    builder.slice(
                            flat,
                            "weight:" + parameter.name(),
                            group.offsets().get(i),
                            options.dtype(),
                            parameter.shape()));
        }
        return slices;
    }

    /// A weight in the compute dtype that is always there.
    int parameter(String name) {
        Integer tensor = parameters.get(name);
        if (tensor == null) {
            throw new IllegalArgumentException("no parameter " + name);
        }
        return tensor;
    }

    /// A tensor of the step, or of microbatch `m`.
    int global(String name, int m) {
        Integer tensor = globals.get(name);
        return tensor != null ? tensor : builder.find(name + " " + m);
    }

    /// Emits what brings the inputs of a step or an evaluation to the device.
    void emitInputs() {
        for (int m = 0; m < part.microbatches().size(); m++) {
            List<Call> calls = inputCalls(m, BATCH_INPUTS);
            if (m == 0) {
                calls.add(copy(builder.find("host scalars"), builder.find("scalars")));
            }
            builder.emit(Instruction.Kind.INPUT, Lane.UPLOAD, -1, -1, m, calls);
        }
    }

    /// Emits what brings the token to decode to the device.
    void emitDecodingInputs() {
        builder.emit(Instruction.Kind.INPUT, Lane.UPLOAD, -1, -1, 0, inputCalls(0, DECODING_INPUTS));
    }

    private List<Call> inputCalls(int m, List<String> names) {
        List<Call> calls = new ArrayList<>();
        for (String name : names) {
            calls.add(copy(builder.find("host " + name + " " + m), builder.find(name + " " + m)));
        }
        return calls;
    }

    static Call copy(int from, int to) {
        return new Call(new Op.Copy(), List.of(from), List.of(to));
    }

    private int device(String name, DType dtype, Shape shape) {
        return builder.allocate(name, TensorSpec.Role.INPUTS, false, dtype, shape);
    }

    private int host(String name, DType dtype, Shape shape) {
        return builder.allocate(name, TensorSpec.Role.INPUTS, true, dtype, shape);
    }
}
