package troika.plan;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.ToIntFunction;
import org.jspecify.annotations.Nullable;
import troika.graph.Block;
import troika.graph.Node;
import troika.graph.Parameter;
import troika.graph.TracedBlock;
import troika.graph.Value;

/// One block in one microbatch: which tensors its symbolic values are.
final class Binding {
    private final RankBuilder builder;
    private final RankTensors tensors;
    private final Block block;
    private final TracedBlock trace;
    private final int microbatch;
    private final ToIntFunction<Parameter> gradients;
    private final ToIntFunction<Parameter> weights;
    private final Map<Value, Integer> bound = new HashMap<>();

    /// @param input tensor of the block's input, -1 for none
    /// @param weights the tensor of a weight, where it is at the time
    /// @param gradients the tensor into which a weight's gradient is added
    Binding(
            RankBuilder builder,
            RankTensors tensors,
            Block block,
            TracedBlock trace,
            int microbatch,
            int input,
            ToIntFunction<Parameter> weights,
            ToIntFunction<Parameter> gradients) {
        this.builder = builder;
        this.tensors = tensors;
        this.block = block;
        this.trace = trace;
        this.microbatch = microbatch;
        this.weights = weights;
        this.gradients = gradients;
        bindIfThere(trace.input(), input);
    }

    TracedBlock trace() {
        return trace;
    }

    /// The tensor of the block's output, -1 for the last block.
    int output() {
        Value output = trace.output();
        return output == null ? -1 : tensor(output);
    }

    void bindOutputGradient(int tensor) {
        bindIfThere(trace.outputGradient(), tensor);
    }

    /// The tensor of the gradient of the block's input, -1 for the first block.
    int inputGradient() {
        Value gradient = trace.inputGradient();
        return gradient == null ? -1 : tensor(gradient);
    }

    List<Call> calls(List<Node> nodes) {
        List<Call> calls = new ArrayList<>();
        for (Node node : nodes) {
            List<Integer> inputs = new ArrayList<>();
            for (Value input : node.inputs()) {
                inputs.add(input == null ? -1 : tensor(input));
            }
            calls.add(new Call(
                    node.op(), inputs, node.outputs().stream().map(this::tensor).toList()));
        }
        return calls;
    }

    /// The nodes of the forward that the backward needs again: those whose results it reads, and what
    /// these need.
    static List<Node> recomputation(TracedBlock trace) {
        Set<Value> needed = new HashSet<>();
        addInputs(trace.backwardInput(), needed);
        addInputs(trace.backwardWeight(), needed);
        List<Node> kept = new ArrayList<>();
        for (Node node : trace.forward().reversed()) {
            if (node.outputs().stream().anyMatch(output -> needed.contains(output.root()))) {
                kept.addFirst(node);
                addInputs(List.of(node), needed);
            }
        }
        return kept;
    }

    private static void addInputs(Collection<Node> nodes, Set<Value> needed) {
        for (Node node : nodes) {
            for (Value input : node.inputs()) {
                if (input != null) {
                    needed.add(input.root());
                }
            }
        }
    }

    private void bindIfThere(@Nullable Value value, int tensor) {
        if (value != null) {
            bound.put(value, tensor);
        }
    }

    private int tensor(Value value) {
        Integer known = bound.get(value);
        if (known != null) {
            return known;
        }
        Value base = value.base();
        int tensor = base != null
                ? builder.slice(tensor(base), name(value), value.offset(), value.dtype(), value.shape())
                : switch (value.kind()) {
                    case PARAMETER -> weights.applyAsInt(parameter(value));
                    case PARAMETER_GRADIENT -> gradients.applyAsInt(parameter(value));
                    case GLOBAL -> tensors.global(value.name(), microbatch);
                    case STATE ->
                        builder.allocate(name(value), TensorSpec.Role.CACHE, false, value.dtype(), value.shape());
                    case LOCAL ->
                        builder.allocate(name(value), TensorSpec.Role.ACTIVATIONS, false, value.dtype(), value.shape());
                    case BLOCK_INPUT, OUTPUT_GRADIENT -> throw new IllegalStateException(value + " is not bound");
                };
        // Weights may have been gathered to another place when the backward comes.
        if (value.root().kind() != Value.Kind.PARAMETER) {
            bound.put(value, tensor);
        }
        return tensor;
    }

    private Parameter parameter(Value value) {
        Parameter parameter = block.parameters().get(value.name());
        if (parameter == null) {
            throw new IllegalStateException(block.name() + " has no parameter " + value.name());
        }
        return parameter;
    }

    private String name(Value value) {
        return block.name() + "." + value.name();
    }
}
