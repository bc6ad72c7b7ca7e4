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
    /// What all ranks have together of a result that can be made again, by the rank's own rows of it.
    private final Map<Value, Value> gathered = new HashMap<>();

    Backward(Trace trace, @Nullable Value output, @Nullable Value outputGradient) {
        this.trace = trace;
        this.gradients = new HashMap<>();
        trace.gradients().forEach(this::contribute);
        if (output != null && outputGradient != null) {
            gradients.put(output, outputGradient);
        }
        List<Node> forward = List.copyOf(trace.nodes());
        if (trace.rebuilds()) {
            for (Node node : forward) {
                if (node.op() instanceof Op.RmsNorm || node.op() instanceof Op.SwiGlu) {
                    rebuildable.add(node.outputs().getFirst());
                } else if (node.op() instanceof Op.AllGather && rebuildable.contains(node.input(0))) {
                    Value whole = node.outputs().getFirst();
                    rebuildable.add(whole);
                    gathered.put(node.input(0), whole);
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
                @Nullable Value residual = gradients.remove(x);
                inputNodes.add(new Node(
                        new Op.RmsNormBackward(true),
                        Arrays.asList(grad, x, weight, node.outputs().get(1), residual),
                        withRebuilt(List.of(trace.parameterGradient(weight), gradX), out)));
                contribute(x, gradX);
                gatherAgain(out);
            }
            case Op.Linear _ -> {
                @Nullable Value known = gradients.get(out);
                if (known == null) {
                    return; // The chunked loss has done it.
                }
                input(new Op.LinearBackwardInput(), node.input(0), node.input(0).shape(), known, node.input(1));
                weight(new Op.LinearBackwardWeight(true), node.input(1), known, again(node.input(0)));
                @Nullable Value added = node.inputs().get(2);
                @Nullable Value residual = added != null ? added : trace.residualBeside(out);
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
            case Op.Add _ -> {
                Value grad = gradientOf(out);
                contribute(base(out), grad);
                contribute(node.input(0), grad);
            }
            case Op.AllReduce _ -> contribute(base(out), gradientOf(out));
            case Op.ReduceScatter op ->
                input(new Op.AllGather(op.axis()), node.input(0), node.input(0).shape(), gradientOf(out));
            case Op.AllGather op -> {
                @Nullable Value known = gradients.get(out);
                if (known != null) { // Otherwise the loss's.
                    input(
                            new Op.ReduceScatter(op.axis()),
                            node.input(0),
                            node.input(0).shape(),
                            known);
                }
            }
            case Op.CrossEntropy _,
                    Op.CrossEntropyPart _,
                    Op.CrossEntropyWhole _,
                    Op.LinearBackwardInput _,
                    Op.LinearBackwardWeight _ -> {}
            default -> throw new IllegalStateException("no gradient is known for " + node.op());
        }
    }

    /// The value as the gradient of a weight reads it.
    private Value again(Value value) {
        Value result = trace.isShared(value) ? base(value) : value;
        return rebuildable.contains(result)
                ? rebuilt.computeIfAbsent(result, v -> trace.local(v.name() + " again", v.dtype(), v.shape()))
                : value;
    }

    /// Gathers the rows of a result that was just made again, where a gradient needs them all.
    private void gatherAgain(Value result) {
        @Nullable Value rows = rebuilt.get(result);
        @Nullable Value whole = wholeAgain(result);
        if (rows != null && whole != null) {
            inputNodes.add(new Node(new Op.AllGather(TensorParallel.AXIS), List.of(rows), List.of(whole)));
        }
    }

    private @Nullable Value wholeAgain(Value result) {
        Value whole = gathered.get(result);
        return whole == null ? null : rebuilt.get(whole);
    }

    private List<Value> withRebuilt(List<Value> outputs, Value result) {
        Value made = wholeAgain(result) == null ? rebuilt.get(result) : again(result);
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
        boolean shared = trace.isShared(value);
        if (shared && gradients.containsValue(gradient)) {
            throw new IllegalStateException("the gradient of " + value + " cannot be summed in place");
        }
        if (gradients.putIfAbsent(value, gradient) != null) {
            throw new IllegalStateException("two gradients reach " + value + " and no op adds them");
        }
        if (shared) {
            Value sum = trace.alias(gradient, gradient.name(), 0, gradient.shape());
            inputNodes.add(new Node(new Op.AllReduce(TensorParallel.AXIS), List.of(), List.of(sum)));
            contribute(base(value), sum);
        }
    }

    private static Value base(Value alias) {
        Value base = alias.base();
        if (base == null) {
            throw new IllegalStateException(alias + " lies in nothing");
        }
        return base;
    }
}
