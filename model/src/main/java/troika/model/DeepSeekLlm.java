package troika.model;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.graph.Block;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.graph.Trace;
import troika.graph.Value;
import troika.tensor.DType;
import troika.tensor.Shape;

/// DeepSeek LLM (DeepSeek-AI 2024): Llama's architecture. Pre-norm decoder layers of grouped-query
/// attention with rotary embeddings and a SwiGLU, an RMSNorm before the head, no biases. Mathematics only.
public final class DeepSeekLlm {
    /// `initializer_range` of DeepSeek LLM's own config.json, and the default of Hugging Face.
    private static final double INITIAL_DEVIATION = 0.02;

    private DeepSeekLlm() {}

    /// The model as blocks: "embedding", "layers.0", …, "head".
    ///
    /// @param positions the longest sequence it will see, in tokens
    public static Model of(ModelConfig config, int positions) {
        Parameter table = matrix("embedding.weight", config.vocabSize(), config.hiddenSize());
        List<Block> blocks = new ArrayList<>();
        blocks.add(new Embedding(table));
        for (int i = 0; i < config.layers(); i++) {
            blocks.add(new DecoderLayer(config, "layers." + i, positions));
        }
        Parameter head =
                config.tieWordEmbeddings() ? table : matrix("head.weight", config.vocabSize(), config.hiddenSize());
        blocks.add(new Head(config, head));
        Model.Constant rope =
                new Model.Constant("rope", new Shape(positions, config.headDim()), () -> ropeTable(config, positions));
        return new Model(blocks, List.of(rope));
    }

    /// Cosines and sines of each position's angles: position / factor · θ^(−2i / headDim) for pair i.
    private static float[] ropeTable(ModelConfig config, int positions) {
        int size = config.headDim();
        int pairs = size / 2;
        float[] table = new float[Math.multiplyExact(positions, size)];
        for (int position = 0; position < positions; position++) {
            for (int i = 0; i < pairs; i++) {
                double frequency = Math.pow(config.ropeTheta(), -2.0 * i / size) / config.ropeScalingFactor();
                table[position * size + i] = (float) Math.cos(position * frequency);
                table[position * size + pairs + i] = (float) Math.sin(position * frequency);
            }
        }
        return table;
    }

    private static Parameter matrix(String name, long outputs, long inputs) {
        return new Parameter(name, new Shape(outputs, inputs), true, INITIAL_DEVIATION);
    }

    private static Parameter norm(String name, long size) {
        return new Parameter(name, new Shape(size), false, 0);
    }

    private static Value inputs(Trace trace, String name) {
        return trace.global(name, DType.I32, new Shape(trace.tokens()));
    }

    private static Value present(@Nullable Value x, String block) {
        if (x == null) {
            throw new IllegalArgumentException(block + " needs an input");
        }
        return x;
    }

    private record Embedding(Parameter table) implements Block {
        @Override
        public String name() {
            return "embedding";
        }

        @Override
        public String kind() {
            return "embedding";
        }

        @Override
        public Map<String, Parameter> parameters() {
            return Map.of("weight", table);
        }

        @Override
        public Value forward(Trace trace, @Nullable Value x) {
            return trace.embedding(inputs(trace, "tokens"), trace.parameter("weight"));
        }
    }

    private record DecoderLayer(ModelConfig config, String name, int positions) implements Block {
        @Override
        public String kind() {
            return "layer";
        }

        @Override
        public Map<String, Parameter> parameters() {
            long hidden = config.hiddenSize();
            long attention = (long) config.heads() * config.headDim();
            long keyValue = (long) config.keyValueHeads() * config.headDim();
            Map<String, Parameter> parameters = new LinkedHashMap<>();
            parameters.put("attention.norm", norm(name + ".attention.norm", hidden));
            parameters.put("attention.qkv", matrix(name + ".attention.qkv", attention + 2 * keyValue, hidden));
            parameters.put("attention.out", matrix(name + ".attention.out", hidden, attention));
            parameters.put("mlp.norm", norm(name + ".mlp.norm", hidden));
            parameters.put("mlp.gateUp", matrix(name + ".mlp.gateUp", 2L * config.intermediateSize(), hidden));
            parameters.put("mlp.down", matrix(name + ".mlp.down", hidden, config.intermediateSize()));
            return parameters;
        }

        @Override
        public Value forward(Trace trace, @Nullable Value input) {
            Value x = present(input, name);
            Value normed = trace.rmsNorm(x, trace.parameter("attention.norm"), config.rmsNormEpsilon());
            Value qkv = trace.linear(normed, trace.parameter("attention.qkv"), null, "qkv");
            Value attended = attention(trace, qkv);
            Value hidden = trace.linear(attended, trace.parameter("attention.out"), x, "hidden");
            Value normedHidden = trace.rmsNorm(hidden, trace.parameter("mlp.norm"), config.rmsNormEpsilon());
            Value gateUp = trace.linear(normedHidden, trace.parameter("mlp.gateUp"), null, "gateUp");
            return trace.linear(trace.swiGlu(gateUp), trace.parameter("mlp.down"), hidden, "output");
        }

        private Value attention(Trace trace, Value qkv) {
            int heads = config.heads();
            int keyValueHeads = config.keyValueHeads();
            int size = config.headDim();
            Value position = inputs(trace, "positions");
            Value rope = trace.global("rope", DType.F32, new Shape(positions, size));
            Value turned = trace.rope(qkv, position, rope, heads + keyValueHeads, size);
            if (trace.mode() != Trace.Mode.DECODE) {
                return trace.attention(turned, position, heads, keyValueHeads, size);
            }
            Shape cache = new Shape(positions, (long) keyValueHeads * size);
            Value keys = trace.state("keys", cache);
            Value values = trace.state("values", cache);
            return trace.attentionDecode(turned, position, keys, values, heads, keyValueHeads, size);
        }
    }

    private record Head(ModelConfig config, Parameter weight) implements Block {
        @Override
        public String name() {
            return "head";
        }

        @Override
        public String kind() {
            return "head";
        }

        @Override
        public Map<String, Parameter> parameters() {
            return Map.of("norm", norm("head.norm", config.hiddenSize()), "weight", weight);
        }

        @Override
        public @Nullable Value forward(Trace trace, @Nullable Value input) {
            Value x = present(input, name());
            Value normed = trace.rmsNorm(x, trace.parameter("norm"), config.rmsNormEpsilon());
            Value head = trace.parameter("weight");
            if (trace.mode() == Trace.Mode.DECODE) {
                return trace.linear(normed, head, null, "logits");
            }
            Shape scalar = new Shape(1);
            trace.lossHead(
                    normed,
                    head,
                    inputs(trace, "labels"),
                    trace.global("scale", DType.F32, scalar),
                    trace.global("loss", DType.F32, scalar));
            return null;
        }
    }
}
