package troika.graph;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import troika.tensor.Shape;

/// Derives a block's backward from its forward.
///
/// Nodes are visited in reverse; `gradients` holds, for each value, the sum of what the visited
/// users contributed. A gradient that skips an op (the residual stream) is handed to the op that
/// produces the other contribution, which adds it inside its own kernel, so no op is spent on sums.
/// Gradients of weights go to a list of their own, because nothing in the backward waits for them
/// and a schedule may defer them (zero-bubble pipelines, Qi et al. 2023). The norms' are the
/// exception: their kernel computes both in one pass over the same data.
///
/// Where the trace says so, what norms and SwiGLUs gave is not kept for the gradients of weights that
/// multiply it: their backward kernels, which read their inputs anyway, make it again for one more write.
final class Backward {
    private final Trace trace;
    private final Map<Value, Value> gradients;
    private final List<Node> inputNodes = new ArrayList<>();
    private final List<Node> weightNodes = new ArrayList<>();
    /// Results that are made again, by the forward's.
    private final Map<Value, Value> rebuilt = new HashMap<>();
    private final Set<Value> rebuildable = new HashSet<>();

    Backward(Trace trace, @Nullable Value output, @Nullable Value outputGradient) {
        this.trace = trace;
        this.gradients = new HashMap<>(trace.gradients());
        if (output != null && outputGradient != null) {
            gradients.put(output, outputGradient);
        }
        List<Node> forward = List.copyOf(trace.nodes());
        if (trace.rebuilds()) {
            for (Node node : forward) {
                if (node.op() instanceof Op.RmsNorm || node.op() instanceof Op.SwiGlu) {
                    rebuildable.add(node.outputs().getFirst());
                }
            }
        }
        for (Node node : forward.reversed()) {
            differentiate(node);
        }
    }

    List<Node> inputNodes() {
        return inputNodes;
    }

    List<Node> weightNodes() {
        return weightNodes;
    }

    @Nullable
    Value gradient(Value value) {
        return gradients.get(value);
    }

    private void differentiate(Node node) {
        if (node.outputs().isEmpty()) {
            return;
        }
        Value out = node.outputs().getFirst();
        switch (node.op()) {
            case Op.Embedding op -> {
                Value grad = gradientOf(out);
                weight(new Op.EmbeddingBackward(op.first(), true), node.input(1), node.input(0), grad);
            }
            case Op.RmsNorm _ -> {
                Value grad = gradientOf(out);
                Value x = node.input(0);
                Value weight = node.input(1);
                Value gradX = trace.local("grad " + x.name(), x.dtype(), x.shape());
                @Nullable Value residual = gradients.get(x);
                inputNodes.add(new Node(
                        new Op.RmsNormBackward(true),
                        Arrays.asList(grad, x, weight, node.outputs().get(1), residual),
                        withRebuilt(List.of(trace.parameterGradient(weight), gradX), out)));
                gradients.put(x, gradX);
            }
            case Op.Linear _ -> {
                @Nullable Value known = gradients.get(out);
                if (known == null) {
                    return; // The chunked loss has done it.
                }
                input(new Op.LinearBackwardInput(), node.input(0), node.input(0).shape(), known, node.input(1));
                weight(new Op.LinearBackwardWeight(true), node.input(1), known, again(node.input(0)));
                @Nullable Value residual = node.inputs().get(2);
                if (residual != null) {
                    contribute(residual, known);
                }
            }
            case Op.Rope rope -> {
                Value grad = gradientOf(out);
                Value turned = trace.alias(grad, grad.name(), 0, grad.shape());
                inputNodes.add(new Node(
                        new Op.Rope(rope.heads(), rope.headSize(), true),
                        List.of(grad, node.input(1), node.input(2)),
                        List.of(turned)));
                contribute(node.input(0), turned);
            }
            case Op.Attention attention ->
                input(
                        new Op.AttentionBackward(attention.shape()),
                        node.input(0),
                        node.input(0).shape(),
                        gradientOf(out),
                        node.input(0),
                        node.input(1),
                        out,
                        node.outputs().get(1));
            case Op.SwiGlu _ -> {
                Value gateUp = node.input(0);
                Value gradient = trace.local("grad " + gateUp.name(), gateUp.dtype(), gateUp.shape());
                inputNodes.add(new Node(
                        new Op.SwiGluBackward(),
                        List.of(gradientOf(out), gateUp),
                        withRebuilt(List.of(gradient), out)));
                contribute(gateUp, gradient);
            }
            case Op.CrossEntropy _, Op.LinearBackwardInput _, Op.LinearBackwardWeight _ -> {}
            default -> throw new IllegalStateException("no gradient is known for " + node.op());
        }
    }

    /// The value as the gradient of a weight reads it.
    private Value again(Value value) {
        return rebuildable.contains(value)
                ? rebuilt.computeIfAbsent(value, v -> trace.local(v.name() + " again", v.dtype(), v.shape()))
                : value;
    }

    private List<Value> withRebuilt(List<Value> outputs, Value result) {
        Value made = rebuilt.get(result);
        if (made == null) {
            return outputs;
        }
        List<Value> all = new ArrayList<>(outputs);
        all.add(made);
        return all;
    }

    private Value gradientOf(Value value) {
        Value gradient = gradients.get(value);
        if (gradient == null) {
            throw new IllegalStateException("nothing uses " + value);
        }
        return gradient;
    }

    private void input(Op op, Value of, Shape shape, Value... inputs) {
        Value gradient = trace.local("grad " + of.name(), of.dtype(), shape);
        inputNodes.add(new Node(op, Arrays.asList(inputs), List.of(gradient)));
        contribute(of, gradient);
    }

    private void weight(Op op, Value parameter, Value... inputs) {
        weightNodes.add(new Node(op, Arrays.asList(inputs), List.of(trace.parameterGradient(parameter))));
    }

    private void contribute(Value value, Value gradient) {
        if (gradients.putIfAbsent(value, gradient) != null) {
            throw new IllegalStateException("two gradients reach " + value + " and no op adds them");
        }
    }
}
