package troika.model;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.graph.Block;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.graph.Portion;
import troika.graph.Range;
import troika.graph.TensorParallel;
import troika.graph.Trace;
import troika.graph.Value;
import troika.tensor.DType;
import troika.tensor.Shape;
import troika.tensor.UserException;

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
        return of(config, positions, TensorParallel.NONE);
    }

    /// What a tensor-parallel rank holds of the model.
    ///
    /// @param positions the longest sequence it will see, in tokens
    /// @throws UserException where there are more ranks than heads, or columns, or words
    public static Model of(ModelConfig config, int positions, TensorParallel ranks) {
        int most = Math.min(config.heads(), Math.min(config.intermediateSize(), config.vocabSize()));
        if (ranks.ranks() > most) {
            throw new UserException("This model cannot be split over " + ranks.ranks()
                    + " tensor-parallel ranks, since it has "
                    + config.heads() + " attention heads, " + config.intermediateSize() + " columns in its MLPs and "
                    + config.vocabSize() + " words: use from 1 to " + most + " of them.");
        }
        TensorParallel.Heads heads = ranks.heads(config.heads(), config.keyValueHeads());
        List<Block> blocks = new ArrayList<>();
        blocks.add(new Embedding(ranks, words(config, ranks, "embedding.weight")));
        for (int i = 0; i < config.layers(); i++) {
            blocks.add(new DecoderLayer(config, ranks, heads, "layers." + i, positions));
        }
        blocks.add(new Head(
                config, ranks, words(config, ranks, config.tieWordEmbeddings() ? "embedding.weight" : "head.weight")));
        Model.Constant rope =
                new Model.Constant("rope", new Shape(positions, config.headDim()), () -> ropeTable(config, positions));
        Map<String, List<Integer>> axes =
                heads.holders().size() == 1 ? Map.of() : Map.of(TensorParallel.KEY_VALUE_AXIS, heads.holders());
        return new Model(blocks, List.of(rope), axes);
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

    private static Parameter matrix(String name, Portion portion, Parameter.Copy... copies) {
        return new Parameter(name, portion, true, INITIAL_DEVIATION, List.of(copies));
    }

    private static Parameter norm(String name, long size, TensorParallel ranks) {
        return new Parameter(name, Portion.all(new Shape(size)), false, 0, ranks.copies(size));
    }

    /// A row for each word.
    private static Parameter words(ModelConfig config, TensorParallel ranks, String name) {
        Shape whole = new Shape(config.vocabSize(), config.hiddenSize());
        return matrix(name, Portion.rows(whole, ranks.part(config.vocabSize())));
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

    private record Embedding(TensorParallel ranks, Parameter table) implements Block {
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
            return ranks.embedding(trace, inputs(trace, "tokens"), trace.parameter("weight"));
        }
    }

    /// @param heads those of this rank
    private record DecoderLayer(
            ModelConfig config, TensorParallel ranks, TensorParallel.Heads heads, String name, int positions)
            implements Block {
        @Override
        public String kind() {
            return "layer";
        }

        @Override
        public Map<String, Parameter> parameters() {
            long hidden = config.hiddenSize();
            long intermediate = config.intermediateSize();
            Range columns = ranks.part(intermediate);
            Map<String, Parameter> parameters = new LinkedHashMap<>();
            parameters.put("attention.norm", norm(name + ".attention.norm", hidden, ranks));
            parameters.put("attention.qkv", qkv());
            parameters.put(
                    "attention.out",
                    matrix(
                            name + ".attention.out",
                            Portion.columns(
                                    new Shape(hidden, features(config.heads())), features(heads.queries(), 0))));
            parameters.put("mlp.norm", norm(name + ".mlp.norm", hidden, ranks));
            parameters.put(
                    "mlp.gateUp",
                    matrix(
                            name + ".mlp.gateUp",
                            Portion.rows(new Shape(2 * intermediate, hidden), columns, columns.plus(intermediate))));
            parameters.put(
                    "mlp.down", matrix(name + ".mlp.down", Portion.columns(new Shape(hidden, intermediate), columns)));
            return parameters;
        }

        private Parameter qkv() {
            long keys = config.heads();
            long values = keys + config.keyValueHeads();
            Portion portion = Portion.rows(
                    new Shape(features(values + config.keyValueHeads()), config.hiddenSize()),
                    features(heads.queries(), 0),
                    features(heads.keyValues(), keys),
                    features(heads.keyValues(), values));
            String parameter = name + ".attention.qkv";
            if (heads.holders().size() == 1) {
                return matrix(parameter, portion);
            }
            Range keysAndValues =
                    new Range(features(heads.queries().size()), portion.shape().size(0));
            return matrix(
                    parameter,
                    portion,
                    new Parameter.Copy(
                            keysAndValues,
                            TensorParallel.KEY_VALUE_AXIS,
                            heads.holders().getFirst() == ranks.index()));
        }

        private long features(long count) {
            return count * config.headDim();
        }

        private Range features(Range some, long before) {
            return new Range(features(before + some.start()), features(before + some.end()));
        }

        @Override
        public Value forward(Trace trace, @Nullable Value input) {
            Value x = present(input, name);
            Value normed = trace.rmsNorm(x, trace.parameter("attention.norm"), config.rmsNormEpsilon());
            Value qkv = trace.linear(ranks.columnInput(trace, normed), trace.parameter("attention.qkv"), null, "qkv");
            Value attended = attention(trace, qkv);
            Value hidden = ranks.rowLinear(trace, attended, trace.parameter("attention.out"), x, "hidden");
            Value normedHidden = trace.rmsNorm(hidden, trace.parameter("mlp.norm"), config.rmsNormEpsilon());
            Value gateUp =
                    trace.linear(ranks.columnInput(trace, normedHidden), trace.parameter("mlp.gateUp"), null, "gateUp");
            return ranks.rowLinear(trace, trace.swiGlu(gateUp), trace.parameter("mlp.down"), hidden, "output");
        }

        private Value attention(Trace trace, Value qkv) {
            int queryHeads = Math.toIntExact(heads.queries().size());
            int keyValueHeads = Math.toIntExact(heads.keyValues().size());
            int size = config.headDim();
            Value position = inputs(trace, "positions");
            Value rope = trace.global("rope", DType.F32, new Shape(positions, size));
            Value turned = trace.rope(qkv, position, rope, queryHeads + keyValueHeads, size);
            if (trace.mode() != Trace.Mode.DECODE) {
                return trace.attention(turned, position, queryHeads, keyValueHeads, size);
            }
            Shape cache = new Shape(positions, (long) keyValueHeads * size);
            Value keys = trace.state("keys", cache);
            Value values = trace.state("values", cache);
            return trace.attentionDecode(turned, position, keys, values, queryHeads, keyValueHeads, size);
        }
    }

    private record Head(ModelConfig config, TensorParallel ranks, Parameter weight) implements Block {
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
            return Map.of("norm", norm("head.norm", config.hiddenSize(), ranks), "weight", weight);
        }

        @Override
        public @Nullable Value forward(Trace trace, @Nullable Value input) {
            Value x = present(input, name());
            Value normed = ranks.columnInput(trace, trace.rmsNorm(x, trace.parameter("norm"), config.rmsNormEpsilon()));
            Value head = trace.parameter("weight");
            if (trace.mode() == Trace.Mode.DECODE) {
                return ranks.logits(trace, normed, head);
            }
            Shape scalar = new Shape(1);
            ranks.lossHead(
                    trace,
                    normed,
                    head,
                    inputs(trace, "labels"),
                    trace.global("scale", DType.F32, scalar),
                    trace.global("loss", DType.F32, scalar));
            return null;
        }
    }
}
