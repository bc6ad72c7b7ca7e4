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

    private final int rank;
    private final int shards;
    private final PlanOptions options;
    private final List<ParameterGroup> groups;
    private final RankBuilder builder;
    private final Map<String, Integer> parameters = new HashMap<>();
    private final Map<String, Integer> globals = new HashMap<>();
    private final List<Integer> weights = new ArrayList<>();

    RankTensors(int rank, int shards, PlanOptions options, Model model, List<ParameterGroup> groups) {
        this.rank = rank;
        this.shards = shards;
        this.options = options;
        this.groups = groups;
        this.builder = new RankBuilder(rank);
        builder.allocate(
                "workspace:" + Lane.COMPUTE,
                TensorSpec.Role.WORKSPACE,
                false,
                DType.I32,
                new Shape(options.workspaceBytes() / 4));
        for (ParameterGroup group : groups) {
            int flat = builder.allocate(
                    "weights:" + group.name(),
                    TensorSpec.Role.WEIGHTS,
                    false,
                    options.dtype(),
                    new Shape(group.elements()));
            weights.add(flat);
            for (int i = 0; i < group.parameters().size(); i++) {
                Parameter parameter = group.parameters().get(i);
                parameters.put(
                        parameter.name(),
                        builder.slice(
                                flat,
                                "weight:" + parameter.name(),
                                group.offsets().get(i),
                                options.dtype(),
                                parameter.shape()));
            }
        }
        for (Model.Constant constant : model.constants()) {
            globals.put(constant.name(), device(constant.name(), DType.F32, constant.shape()));
        }
    }

    private RankTensors(RankTensors from, RankBuilder builder) {
        rank = from.rank;
        shards = from.shards;
        options = from.options;
        groups = from.groups;
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
    ///
    /// @param batches sequences of each microbatch of this rank
    void addTraining(List<Integer> batches) {
        for (ParameterGroup group : groups) {
            Shape full = new Shape(group.elements());
            Shape shard = sharded() ? new Shape(group.elements() / shards) : full;
            if (options.dtype() == DType.F32) {
                builder.slice(weights.get(group.index()), "master:" + group.name(), start(shard), DType.F32, shard);
            } else {
                builder.allocate("master:" + group.name(), TensorSpec.Role.MASTER_WEIGHTS, false, DType.F32, shard);
            }
            builder.allocate("moment1:" + group.name(), TensorSpec.Role.MOMENTS, false, options.moments(), shard);
            builder.allocate("moment2:" + group.name(), TensorSpec.Role.MOMENTS, false, options.moments(), shard);
            builder.allocate(
                    "gradients:" + group.name(),
                    TensorSpec.Role.GRADIENTS,
                    false,
                    DType.F32,
                    shardedGradients() ? shard : full);
        }
        addInputs(batches);
        int stats = device("stats", DType.F32, new Shape(2));
        builder.slice(stats, "sumSquares", 0, DType.F32, new Shape(1));
        globals.put("loss", builder.slice(stats, "loss", 1, DType.F32, new Shape(1)));
        device("clip", DType.F32, new Shape(2));
        int scalars = device("scalars", DType.F32, new Shape(SCALARS));
        builder.slice(scalars, "optimizer", 0, DType.F32, new Shape(4));
        globals.put("scale", builder.slice(scalars, "scale", 4, DType.F32, new Shape(1)));
        builder.slice(scalars, "unscale", 5, DType.F32, new Shape(1));
        host("host scalars", DType.F32, new Shape(SCALARS));
        int report = host("host report", DType.F32, new Shape(4));
        builder.slice(report, "host stats", 0, DType.F32, new Shape(2));
        builder.slice(report, "host clip", 2, DType.F32, new Shape(2));
    }

    /// Adds what decoding needs: one token and its position.
    void addDecoding() {
        for (String name : DECODING_INPUTS) {
            device(name + " 0", DType.I32, new Shape(1));
            host("host " + name + " 0", DType.I32, new Shape(1));
        }
    }

    private void addInputs(List<Integer> batches) {
        for (int m = 0; m < batches.size(); m++) {
            Shape shape = new Shape((long) batches.get(m) * options.sequence());
            for (String name : BATCH_INPUTS) {
                device(name + " " + m, DType.I32, shape);
                host("host " + name + " " + m, DType.I32, shape);
            }
        }
    }

    int rank() {
        return rank;
    }

    int shards() {
        return shards;
    }

    List<ParameterGroup> groups() {
        return groups;
    }

    RankBuilder builder() {
        return builder;
    }

    /// Whether a rank keeps only its shard of the optimizer states (ZeRO-1).
    boolean sharded() {
        return options.zeroStage() >= 1 && shards > 1;
    }

    /// Whether a step keeps only its shard of the summed gradients (ZeRO-2).
    boolean shardedGradients() {
        return options.zeroStage() >= 2 && shards > 1;
    }

    /// A weight in the compute dtype.
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
    void emitInputs(int microbatches) {
        for (int m = 0; m < microbatches; m++) {
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

    /// The first element of this rank's shard; 0 where a shard is everything.
    private long start(Shape shard) {
        return sharded() ? rank * shard.elements() : 0;
    }

    private int device(String name, DType dtype, Shape shape) {
        return builder.allocate(name, TensorSpec.Role.INPUTS, false, dtype, shape);
    }

    private int host(String name, DType dtype, Shape shape) {
        return builder.allocate(name, TensorSpec.Role.INPUTS, true, dtype, shape);
    }
}
