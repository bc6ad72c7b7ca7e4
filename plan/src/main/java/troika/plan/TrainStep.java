package troika.plan;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import troika.graph.Block;
import troika.graph.Op;
import troika.graph.Parameter;
import troika.graph.Trace;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Emits a rank's optimizer step: forward and backward of its microbatches, reduction of each group
/// as soon as its last gradient is there, norm, update, and the gathering of updated weights, which
/// the next step's forward waits for group by group.
final class TrainStep {
    private final Compiler compiler;
    private final List<Block> blocks;
    private final PlanOptions options;
    private final RankTensors tensors;
    private final RankBuilder builder;
    private final int shards;
    private final boolean sharded;
    /// The first block whose backward, the last in reverse order, adds to a group's gradients.
    private final Map<Integer, List<ParameterGroup>> completedBy = new HashMap<>();
    /// Of the microbatch at hand, where ZeRO-2 gathers whole gradients of a group before they leave for
    /// their shards.
    private final Map<Integer, Integer> gradientBuffers = new HashMap<>();

    TrainStep(Compiler compiler, RankTensors tensors, RankBuilder builder) {
        this.compiler = compiler;
        this.blocks = compiler.blocks();
        this.options = compiler.options();
        this.tensors = tensors;
        this.builder = builder;
        this.shards = tensors.shards();
        this.sharded = tensors.sharded();
        for (ParameterGroup group : tensors.groups()) {
            int first = 0;
            while (!uses(blocks.get(first), group)) {
                first++;
            }
            completedBy.computeIfAbsent(first, _ -> new ArrayList<>()).add(group);
        }
    }

    void emit() {
        List<Integer> batches = compiler.localBatches(tensors.rank());
        int microbatches = batches.size();
        tensors.emitInputs(microbatches);
        for (int m = 0; m < microbatches; m++) {
            microbatch(m, batches.get(m), m == microbatches - 1);
        }
        norm();
        for (ParameterGroup group : tensors.groups()) {
            update(group);
        }
    }

    private void microbatch(int m, int batch, boolean last) {
        gradientBuffers.clear();
        List<Binding> bindings = new ArrayList<>();
        List<Integer> inputs = new ArrayList<>();
        int x = -1;
        for (int b = 0; batch > 0 && b < blocks.size(); b++) {
            inputs.add(x);
            Binding binding = bind(b, m, batch, x);
            bindings.add(binding);
            builder.emit(
                    Instruction.Kind.FORWARD,
                    Lane.COMPUTE,
                    b,
                    -1,
                    m,
                    binding.calls(binding.trace().forward()));
            x = binding.output();
        }
        int gradient = -1;
        for (int b = blocks.size() - 1; b >= 0; b--) {
            if (batch > 0) {
                Binding binding = bindings.get(b);
                if (options.recompute() && b < blocks.size() - 1) {
                    binding = bind(b, m, batch, inputs.get(b));
                    builder.emit(
                            Instruction.Kind.RECOMPUTE,
                            Lane.COMPUTE,
                            b,
                            -1,
                            m,
                            binding.calls(Binding.recomputation(binding.trace())));
                }
                binding.bindOutputGradient(gradient);
                builder.emit(
                        Instruction.Kind.BACKWARD_INPUT,
                        Lane.COMPUTE,
                        b,
                        -1,
                        m,
                        binding.calls(binding.trace().backwardInput()));
                builder.emit(
                        Instruction.Kind.BACKWARD_WEIGHT,
                        Lane.COMPUTE,
                        b,
                        -1,
                        m,
                        binding.calls(binding.trace().backwardWeight()));
                gradient = binding.inputGradient();
            }
            for (ParameterGroup group : completedBy.getOrDefault(b, List.of())) {
                if (last || tensors.shardedGradients()) {
                    reduce(group, m);
                }
            }
        }
    }

    private Binding bind(int b, int m, int batch, int input) {
        Block block = blocks.get(b);
        return new Binding(
                builder,
                tensors,
                block,
                compiler.trace(block, Trace.Mode.TRAIN, batch, options.sequence(), builder, input),
                m,
                input,
                parameter -> gradient(parameter, m));
    }

    /// The tensor that collects a weight's gradient.
    private int gradient(Parameter parameter, int m) {
        for (ParameterGroup group : tensors.groups()) {
            int i = group.parameters().indexOf(parameter);
            if (i >= 0) {
                return builder.slice(
                        gradients(group, m),
                        "gradient:" + parameter.name(),
                        group.offsets().get(i),
                        DType.F32,
                        parameter.shape());
            }
        }
        throw new IllegalStateException("no group holds " + parameter.name());
    }

    /// The whole, flat gradients of a group.
    private int gradients(ParameterGroup group, int m) {
        if (!tensors.shardedGradients()) {
            return builder.find("gradients:" + group.name());
        }
        return gradientBuffers.computeIfAbsent(group.index(), _ -> {
            int buffer = builder.allocate(
                    "gradient buffer:" + group.name(),
                    TensorSpec.Role.GRADIENT_BUFFERS,
                    false,
                    DType.F32,
                    new Shape(group.elements()));
            List<Call> zeros = new ArrayList<>();
            for (long[] gap : gaps(group, batchIsEmpty(m))) {
                int padding = builder.slice(buffer, "padding:" + group.name(), gap[0], DType.F32, new Shape(gap[1]));
                zeros.add(new Call(new Op.Zero(), List.of(), List.of(padding)));
            }
            builder.emit(Instruction.Kind.BACKWARD_WEIGHT, Lane.COMPUTE, -1, group.index(), m, zeros);
            return buffer;
        });
    }

    private boolean batchIsEmpty(int m) {
        return compiler.localBatches(tensors.rank()).get(m) == 0;
    }

    /// Start and length of what no gradient is written to, which still is summed and reduced.
    private static List<long[]> gaps(ParameterGroup group, boolean all) {
        List<long[]> gaps = new ArrayList<>();
        long end = 0;
        for (int i = 0; !all && i < group.parameters().size(); i++) {
            long start = group.offsets().get(i);
            if (start > end) {
                gaps.add(new long[] {end, start - end});
            }
            end = start + group.parameters().get(i).elements();
        }
        if (group.elements() > end) {
            gaps.add(new long[] {end, group.elements() - end});
        }
        return gaps;
    }

    private void reduce(ParameterGroup group, int m) {
        if (shards == 1) {
            return;
        }
        int full = gradients(group, m);
        if (!sharded) {
            communicate(
                    Instruction.Kind.REDUCE, group, m, new Call(new Op.AllReduce("data"), List.of(), List.of(full)));
            return;
        }
        int shard = shard(full, "gradient shard:" + group.name(), DType.F32, group);
        communicate(
                Instruction.Kind.REDUCE,
                group,
                m,
                new Call(new Op.ReduceScatter("data"), List.of(full), List.of(shard)));
        if (tensors.shardedGradients()) {
            int sum = builder.find("gradients:" + group.name());
            Op op = m == 0 ? new Op.Copy() : new Op.Add();
            communicate(Instruction.Kind.REDUCE, group, m, new Call(op, List.of(shard), List.of(sum)));
        }
    }

    private void norm() {
        int sum = builder.find("sumSquares");
        int stats = builder.find("stats");
        List<Call> squares = new ArrayList<>();
        for (ParameterGroup group : tensors.groups()) {
            int gradients = builder.find("gradients:" + group.name());
            int own = shards == 1 || tensors.shardedGradients()
                    ? gradients
                    : shard(gradients, "norm shard:" + group.name(), DType.F32, group);
            squares.add(new Call(new Op.SumSquares(true), List.of(own), List.of(sum)));
        }
        builder.emit(Instruction.Kind.NORM, Lane.COMPUTE, squares);
        if (shards > 1) {
            builder.emit(
                    Instruction.Kind.NORM,
                    Lane.COMMUNICATION,
                    List.of(new Call(new Op.AllReduce("data"), List.of(), List.of(stats))));
        }
        int clip = builder.find("clip");
        builder.emit(
                Instruction.Kind.NORM,
                Lane.COMPUTE,
                List.of(new Call(
                        new Op.ClipFactor(options.maxGradNorm()),
                        List.of(sum, builder.find("loss"), builder.find("unscale")),
                        List.of(clip))));
        builder.emit(
                Instruction.Kind.REPORT,
                Lane.DOWNLOAD,
                List.of(
                        RankTensors.copy(stats, builder.find("host stats")),
                        RankTensors.copy(clip, builder.find("host clip"))));
    }

    private void update(ParameterGroup group) {
        int weights = builder.find("weights:" + group.name());
        int gradients = builder.find("gradients:" + group.name());
        boolean wholeGradients = sharded && !tensors.shardedGradients();
        int own = wholeGradients ? shard(gradients, "update shard:" + group.name(), DType.F32, group) : gradients;
        int weightShard = sharded ? shard(weights, "weight shard:" + group.name(), options.dtype(), group) : weights;
        long size = sharded ? group.elements() / shards : group.elements();
        long start = sharded ? tensors.rank() * size : 0;
        long decayed = Math.clamp(group.decayed() - start, 0, size);
        // Padding that depends on the shards is left out, as the numbers may not.
        long first = tensors.groups().subList(0, group.index()).stream()
                .mapToLong(ParameterGroup::parameterElements)
                .sum();
        builder.emit(
                Instruction.Kind.UPDATE,
                Lane.COMPUTE,
                -1,
                group.index(),
                -1,
                List.of(new Call(
                        new Op.AdamW(
                                decayed,
                                options.beta1(),
                                options.beta2(),
                                options.epsilon(),
                                options.weightDecay(),
                                first + start),
                        List.of(own, builder.find("clip"), builder.find("optimizer")),
                        List.of(
                                builder.find("master:" + group.name()),
                                builder.find("moment1:" + group.name()),
                                builder.find("moment2:" + group.name()),
                                weightShard))));
        if (sharded) {
            communicate(
                    Instruction.Kind.GATHER,
                    group,
                    -1,
                    new Call(new Op.AllGather("data"), List.of(weightShard), List.of(weights)));
        }
    }

    private void communicate(Instruction.Kind kind, ParameterGroup group, int m, Call call) {
        builder.emit(kind, Lane.COMMUNICATION, -1, group.index(), m, List.of(call));
    }

    /// This rank's shard of a tensor over a whole group.
    private int shard(int full, String name, DType dtype, ParameterGroup group) {
        long size = group.elements() / shards;
        return builder.slice(full, name, tensors.rank() * size, dtype, new Shape(size));
    }

    private static boolean uses(Block block, ParameterGroup group) {
        Set<Parameter> own = new HashSet<>(group.parameters());
        return block.parameters().values().stream().anyMatch(own::contains);
    }
}
