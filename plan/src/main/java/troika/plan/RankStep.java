package troika.plan;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import troika.graph.Block;
import troika.graph.Op;
import troika.graph.Parameter;
import troika.graph.Trace;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Emits one rank's instructions of blocks: forward, recomputation, backward. [StepOrder] says which and
/// when, in one order for all ranks.
final class RankStep {
    /// A block, or the group of one, in one of the rank's microbatches.
    private record At(int index, int microbatch) {}

    private final Compiler compiler;
    private final PlanOptions options;
    private final RankPart part;
    private final RankTensors tensors;
    private final RankBuilder builder;
    private final Trace.Mode mode;
    private final int sequence;
    private final Map<At, Binding> bindings = new HashMap<>();
    private final Map<At, Integer> inputs = new HashMap<>();
    private final Map<At, Integer> outputGradients = new HashMap<>();
    private final Map<At, Integer> gradientBuffers = new HashMap<>();
    /// Weights that are gathered, by name.
    private final Map<String, Integer> gathered = new HashMap<>();

    RankStep(Compiler compiler, RankTensors tensors, Trace.Mode mode, int sequence) {
        this.compiler = compiler;
        this.options = compiler.options();
        this.part = tensors.part();
        this.tensors = tensors;
        this.builder = tensors.builder();
        this.mode = mode;
        this.sequence = sequence;
    }

    RankPart part() {
        return part;
    }

    RankTensors tensors() {
        return tensors;
    }

    RankBuilder builder() {
        return builder;
    }

    /// Whether a microbatch has no sequences here.
    boolean empty(int m) {
        return part.microbatches().get(m).sequences() == 0;
    }

    /// The tensor that goes into a block; its shape is known where the block before is this rank's.
    int input(int block, int m) {
        return inputs.getOrDefault(new At(block, m), -1);
    }

    void setInput(int block, int m, int tensor) {
        inputs.put(new At(block, m), tensor);
    }

    /// The gradient of what a block gives.
    int outputGradient(int block, int m) {
        return outputGradients.getOrDefault(new At(block, m), -1);
    }

    void setOutputGradient(int block, int m, int tensor) {
        outputGradients.put(new At(block, m), tensor);
    }

    /// From here on these weights are read where they were gathered to.
    void use(Map<String, Integer> weights) {
        gathered.putAll(weights);
    }

    void forward(int block, int m) {
        Binding binding = bind(block, m);
        emit(Instruction.Kind.FORWARD, block, m, binding.calls(binding.trace().forward()));
        setInput(block + 1, m, binding.output());
        if (mode == Trace.Mode.TRAIN) {
            bindings.put(new At(block, m), binding);
        }
    }

    /// The gradient of a block's input, its activations made again first where they were not kept.
    void backwardInput(int block, int m) {
        Binding binding = bindings.get(new At(block, m));
        if (binding == null) {
            throw new IllegalStateException("block " + block + " goes back before it went forward");
        }
        if (options.recompute() && block < compiler.blockCount() - 1) {
            binding = bind(block, m);
            bindings.put(new At(block, m), binding);
            emit(Instruction.Kind.RECOMPUTE, block, m, binding.calls(Binding.recomputation(binding.trace())));
        }
        binding.bindOutputGradient(outputGradient(block, m));
        emit(
                Instruction.Kind.BACKWARD_INPUT,
                block,
                m,
                binding.calls(binding.trace().backwardInput()));
        setOutputGradient(block - 1, m, binding.inputGradient());
    }

    void backwardWeight(int block, int m) {
        Binding binding = bindings.remove(new At(block, m));
        if (binding == null) {
            throw new IllegalStateException("block " + block + " has no backward under way");
        }
        emit(
                Instruction.Kind.BACKWARD_WEIGHT,
                block,
                m,
                binding.calls(binding.trace().backwardWeight()));
    }

    /// The whole, flat gradients of a group: those that last or, where a microbatch's leave for their
    /// shards, its buffer.
    int gradients(ParameterGroup group, int m) {
        if (!tensors.shardedGradients(group)) {
            return builder.find("gradients:" + group.name());
        }
        return gradientBuffers.computeIfAbsent(new At(group.index(), m), _ -> {
            int buffer = builder.allocate(
                    "gradient buffer:" + group.name(),
                    TensorSpec.Role.GRADIENT_BUFFERS,
                    false,
                    DType.F32,
                    new Shape(group.elements()));
            List<Call> zeros = new ArrayList<>();
            for (long[] gap : gaps(group, empty(m))) {
                int padding = builder.slice(buffer, "padding:" + group.name(), gap[0], DType.F32, new Shape(gap[1]));
                zeros.add(new Call(new Op.Zero(), List.of(), List.of(padding)));
            }
            builder.emit(Instruction.Kind.BACKWARD_WEIGHT, Lane.COMPUTE, -1, group.index(), m, zeros);
            return buffer;
        });
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

    private Binding bind(int b, int m) {
        Block block = part.block(b);
        int input = input(b, m);
        int batch = part.microbatches().get(m).sequences();
        return new Binding(
                builder,
                tensors,
                block,
                compiler.trace(block, part, mode, batch, sequence, builder, input),
                m,
                input,
                this::weight,
                parameter -> gradient(parameter, m));
    }

    private int weight(Parameter parameter) {
        if (!tensors.shardedWeights()) {
            return tensors.parameter(parameter.name());
        }
        Integer tensor = gathered.get(parameter.name());
        if (tensor == null) {
            throw new IllegalStateException(parameter.name() + " is not gathered");
        }
        return tensor;
    }

    /// The tensor that collects a weight's gradient.
    private int gradient(Parameter parameter, int m) {
        ParameterGroup group = part.groupOf(parameter);
        return builder.slice(
                gradients(group, m),
                "gradient:" + parameter.name(),
                group.offset(parameter),
                DType.F32,
                parameter.shape());
    }

    /// Emits calls as instructions: collectives within a block have a lane of their own, and cut it into
    /// segments.
    private void emit(Instruction.Kind kind, int block, int m, List<Call> calls) {
        List<Call> segment = new ArrayList<>();
        Lane lane = Lane.COMPUTE;
        for (Call call : calls) {
            Lane own = call.op().collective() ? Lane.TENSOR : Lane.COMPUTE;
            if (own != lane) {
                builder.emit(kind, lane, block, -1, m, segment);
                segment = new ArrayList<>();
                lane = own;
            }
            segment.add(call);
        }
        builder.emit(kind, lane, block, -1, m, segment);
    }
}
