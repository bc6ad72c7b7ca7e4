package troika.graph;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Blocks for tests: a decoder layer of 2 heads of 4 and one key-value head, and a head of 10 words.
final class Graphs {
    static final int HIDDEN = 8;
    static final int WORDS = 10;

    private Graphs() {}

    static Block layer() {
        return layer(TensorParallel.NONE);
    }

    /// The same sizes on a rank of several.
    static Block layer(TensorParallel ranks) {
        Map<String, Parameter> parameters = new LinkedHashMap<>();
        parameters.put("norm1", new Parameter("norm1", new Shape(HIDDEN), false, 0));
        parameters.put("qkv", new Parameter("qkv", new Shape(16, HIDDEN), true, 0.02));
        parameters.put("out", new Parameter("out", new Shape(HIDDEN, HIDDEN), true, 0.02));
        parameters.put("norm2", new Parameter("norm2", new Shape(HIDDEN), false, 0));
        parameters.put("gateUp", new Parameter("gateUp", new Shape(24, HIDDEN), true, 0.02));
        parameters.put("down", new Parameter("down", new Shape(HIDDEN, 12), true, 0.02));
        return new Simple(parameters, (trace, x) -> {
            Value in = present(x);
            Value position = trace.global("positions", DType.I32, new Shape(trace.tokens()));
            Value rope = trace.global("rope", DType.F32, new Shape(16, 4));
            Value normed = ranks.columnInput(trace, trace.rmsNorm(in, trace.parameter("norm1"), 1e-6));
            Value qkv = trace.linear(normed, trace.parameter("qkv"), null, "qkv");
            Value attended = trace.attention(trace.rope(qkv, position, rope, 3, 4), position, 2, 1, 4);
            Value hidden = ranks.rowLinear(trace, attended, trace.parameter("out"), in, "hidden");
            Value normedHidden = ranks.columnInput(trace, trace.rmsNorm(hidden, trace.parameter("norm2"), 1e-6));
            Value gateUp = trace.linear(normedHidden, trace.parameter("gateUp"), null, "gateUp");
            return ranks.rowLinear(trace, trace.swiGlu(gateUp), trace.parameter("down"), hidden, "output");
        });
    }

    /// Settings of 2 sequences of 8 tokens.
    static Trace.Settings settings(Trace.Mode mode, DType dtype) {
        return new Trace.Settings(mode, dtype, 2, 8, true, false, 1 << 20);
    }

    static Block head() {
        return head(TensorParallel.NONE);
    }

    /// On a rank of several it has 10 words of as many as they all have.
    static Block head(TensorParallel ranks) {
        Map<String, Parameter> parameters = new LinkedHashMap<>();
        parameters.put("norm", new Parameter("norm", new Shape(HIDDEN), false, 0));
        Shape whole = new Shape((long) WORDS * ranks.ranks(), HIDDEN);
        Range own = new Range((long) WORDS * ranks.index(), WORDS * (ranks.index() + 1L));
        parameters.put("weight", new Parameter("weight", Portion.rows(whole, own), true, 0.02, List.of()));
        return new Simple(parameters, (trace, x) -> {
            Value normed = ranks.columnInput(trace, trace.rmsNorm(present(x), trace.parameter("norm"), 1e-6));
            ranks.lossHead(
                    trace,
                    normed,
                    trace.parameter("weight"),
                    trace.global("labels", DType.I32, new Shape(trace.tokens())),
                    trace.global("scale", DType.F32, new Shape(1)),
                    trace.global("loss", DType.F32, new Shape(1)));
            return null;
        });
    }

    static Value present(@Nullable Value x) {
        if (x == null) {
            throw new IllegalArgumentException("no input");
        }
        return x;
    }

    /// Nodes in words: op, inputs → outputs.
    static List<String> words(List<Node> nodes) {
        return nodes.stream()
                .map(node -> node.op().getClass().getSimpleName() + " "
                        + String.join(
                                " ",
                                node.inputs().stream()
                                        .map(value -> value == null ? "-" : word(value))
                                        .toList())
                        + " → "
                        + String.join(
                                " ", node.outputs().stream().map(Graphs::word).toList()))
                .toList();
    }

    private static String word(Value value) {
        return switch (value.kind()) {
            case PARAMETER -> value.name();
            case PARAMETER_GRADIENT -> "∂" + value.name();
            default -> value.name().replace("grad ", "grad_");
        };
    }

    interface Forward {
        @Nullable
        Value of(Trace trace, @Nullable Value x);
    }

    record Simple(Map<String, Parameter> parameters, Forward body) implements Block {
        @Override
        public String name() {
            return "block";
        }

        @Override
        public String kind() {
            return "block";
        }

        @Override
        public @Nullable Value forward(Trace trace, @Nullable Value x) {
            return body.of(trace, x);
        }
    }
}
