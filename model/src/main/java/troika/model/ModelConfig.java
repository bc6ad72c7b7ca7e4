package troika.model;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.OptionalInt;
import org.jspecify.annotations.Nullable;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.node.ObjectNode;
import troika.tensor.UserException;

/// The sizes and constants of a dense DeepSeek LLM, which is Llama's architecture: what a Hugging Face
/// `config.json` says.
///
/// @param vocabSize          tokens in the vocabulary, and rows of the embedding
/// @param hiddenSize         width of the residual stream
/// @param intermediateSize   width inside the SwiGLU
/// @param layers             number of decoder layers
/// @param heads              query heads of a layer
/// @param keyValueHeads      key-value heads of a layer; divides `heads`
/// @param headDim            width of one head, even
/// @param maxPositions       longest sequence, in tokens
/// @param rmsNormEpsilon     added to the mean square in RMSNorm
/// @param ropeTheta          base of the rotary embedding
/// @param ropeScalingFactor  positions are divided by this ("linear" scaling); 1 means no scaling
/// @param tieWordEmbeddings  whether the head uses the embedding's weights
/// @param bosTokenId         token that begins a document, where the model has one
/// @param eosTokenId         token that ends a document, where the model has one
/// @param dtype              dtype the weights are stored in: "float32", "bfloat16" or "float16"
public record ModelConfig(
        int vocabSize,
        int hiddenSize,
        int intermediateSize,
        int layers,
        int heads,
        int keyValueHeads,
        int headDim,
        int maxPositions,
        double rmsNormEpsilon,
        double ropeTheta,
        double ropeScalingFactor,
        boolean tieWordEmbeddings,
        OptionalInt bosTokenId,
        OptionalInt eosTokenId,
        String dtype) {

    /// The name of the file in a model's directory.
    public static final String FILE = "config.json";

    /// Limits that keep every product of sizes within a long, far above any model there is.
    private static final int LARGEST_VOCABULARY = 1 << 26;

    private static final int LARGEST_WIDTH = 1 << 20;
    private static final int MOST_LAYERS = 1 << 14;
    private static final int MOST_POSITIONS = 1 << 27;

    /// @throws UserException where a value is out of range or does not fit the others; the message says
    ///   it of `config.json`'s key
    public ModelConfig {
        within("vocab_size", vocabSize, LARGEST_VOCABULARY);
        within("hidden_size", hiddenSize, LARGEST_WIDTH);
        within("intermediate_size", intermediateSize, LARGEST_WIDTH);
        within("num_hidden_layers", layers, MOST_LAYERS);
        within("num_attention_heads", heads, LARGEST_WIDTH);
        within("num_key_value_heads", keyValueHeads, LARGEST_WIDTH);
        within("head_dim", headDim, LARGEST_WIDTH);
        within("max_position_embeddings", maxPositions, MOST_POSITIONS);
        check(
                heads % keyValueHeads == 0,
                "num_attention_heads",
                heads,
                "a multiple of num_key_value_heads " + keyValueHeads);
        check(headDim % 2 == 0, "head_dim", headDim, "even, because rotary embeddings turn pairs");
        check(
                (long) heads * headDim <= LARGEST_WIDTH,
                "head_dim",
                headDim,
                "such that all " + heads + " heads together are at most " + LARGEST_WIDTH + " wide");
        check(rmsNormEpsilon > 0 && rmsNormEpsilon <= 1, "rms_norm_eps", rmsNormEpsilon, "above 0 and at most 1");
        check(ropeTheta >= 1 && ropeTheta <= 1e12, "rope_theta", ropeTheta, "from 1 to 1e12");
        check(
                ropeScalingFactor >= 1 && ropeScalingFactor <= 1e6,
                "the linear scaling factor of rope",
                ropeScalingFactor,
                "from 1 to 1e6");
        tokenWithin("bos_token_id", bosTokenId, vocabSize);
        tokenWithin("eos_token_id", eosTokenId, vocabSize);
        requireDType(dtype);
    }

    /// Reads `config.json` of a model's directory, in the form of transformers 4 or 5.
    ///
    /// @throws UserException where the file is missing or malformed, or describes a model that Troika
    ///   does not train
    public static ModelConfig read(Path directory) {
        if (!Files.exists(directory.resolve(FILE))) {
            throw new UserException("There is no " + FILE + " in " + directory
                    + ": give the folder of a model, such as a run's model folder or a checkpoint.");
        }
        return of(JsonFields.read(directory.resolve(FILE)));
    }

    static ModelConfig parse(String file, byte[] utf8) {
        return of(JsonFields.parse(file, utf8));
    }

    /// Writes `config.json` into a model's directory; see [#json].
    ///
    /// @param dtype what the weights beside it are stored in: "float32", "bfloat16" or "float16"
    public void write(Path directory, String dtype) throws IOException {
        Files.write(directory.resolve(FILE), json(dtype));
    }

    /// The content of a `config.json` that transformers 4 and 5 both load.
    ///
    /// @param dtype what the weights beside it are stored in: "float32", "bfloat16" or "float16"
    public byte[] json(String dtype) {
        requireDType(dtype);
        ObjectNode json = JsonFields.newObject();
        json.putArray("architectures").add("LlamaForCausalLM");
        json.put("model_type", "llama");
        json.put("vocab_size", vocabSize);
        json.put("hidden_size", hiddenSize);
        json.put("intermediate_size", intermediateSize);
        json.put("num_hidden_layers", layers);
        json.put("num_attention_heads", heads);
        json.put("num_key_value_heads", keyValueHeads);
        json.put("head_dim", headDim);
        json.put("max_position_embeddings", maxPositions);
        json.put("hidden_act", "silu");
        json.put("rms_norm_eps", rmsNormEpsilon);
        json.put("attention_bias", false);
        json.put("mlp_bias", false);
        json.put("attention_dropout", 0.0);
        json.put("initializer_range", 0.02);
        json.put("tie_word_embeddings", tieWordEmbeddings);
        putToken(json, "bos_token_id", bosTokenId);
        putToken(json, "eos_token_id", eosTokenId);
        json.put("use_cache", true);
        // transformers 4 reads the first three keys, transformers 5 the last two.
        json.put("rope_theta", ropeTheta);
        ObjectNode parameters = JsonFields.newObject();
        parameters.put("rope_theta", ropeTheta);
        if (ropeScalingFactor == 1) {
            json.putNull("rope_scaling");
            parameters.put("rope_type", "default");
        } else {
            json.putObject("rope_scaling")
                    .put("rope_type", "linear")
                    .put("type", "linear")
                    .put("factor", ropeScalingFactor);
            parameters.put("rope_type", "linear").put("factor", ropeScalingFactor);
        }
        json.put("torch_dtype", dtype);
        json.set("rope_parameters", parameters);
        json.put("dtype", dtype);
        return JsonFields.write(json);
    }

    /// Says in words, such as "hidden_size is 64 and not 128", what `other` has and this one has not; null where both
    /// describe the same function of the same weights. The stored dtype and special tokens may differ.
    public @Nullable String difference(ModelConfig other) {
        Map<String, Object> own = shape();
        for (var theirs : other.shape().entrySet()) {
            Object value = own.get(theirs.getKey());
            if (!theirs.getValue().equals(value)) {
                return theirs.getKey() + " is " + theirs.getValue() + " and not " + value;
            }
        }
        return null;
    }

    private Map<String, Object> shape() {
        var shape = new LinkedHashMap<String, Object>();
        shape.put("vocab_size", vocabSize);
        shape.put("hidden_size", hiddenSize);
        shape.put("intermediate_size", intermediateSize);
        shape.put("num_hidden_layers", layers);
        shape.put("num_attention_heads", heads);
        shape.put("num_key_value_heads", keyValueHeads);
        shape.put("head_dim", headDim);
        shape.put("max_position_embeddings", maxPositions);
        shape.put("rms_norm_eps", rmsNormEpsilon);
        shape.put("rope_theta", ropeTheta);
        shape.put("rope scaling factor", ropeScalingFactor);
        shape.put("tie_word_embeddings", tieWordEmbeddings);
        return shape;
    }

    /// The number of trained weights; a tied head counts once.
    public long parameterCount() {
        long hidden = hiddenSize;
        long queries = (long) heads * headDim;
        long keys = (long) keyValueHeads * headDim;
        long layer = 2 * hidden * (queries + keys) + 3 * hidden * intermediateSize + 2 * hidden;
        return vocabSize * hidden * (tieWordEmbeddings ? 1 : 2) + layers * layer + hidden;
    }

    private static ModelConfig of(JsonFields json) {
        requireDenseLlama(json);
        int hidden = (int) json.whole("hidden_size", 1, LARGEST_WIDTH);
        int heads = (int) json.whole("num_attention_heads", 1, LARGEST_WIDTH);
        if (!json.has("head_dim") && hidden % heads != 0) {
            throw json.refusal(
                    "hidden_size", "is " + hidden + " and must be a multiple of num_attention_heads " + heads);
        }
        int vocabulary = (int) json.whole("vocab_size", 1, LARGEST_VOCABULARY);
        int intermediate = (int) json.whole("intermediate_size", 1, LARGEST_WIDTH);
        int layers = (int) json.whole("num_hidden_layers", 1, MOST_LAYERS);
        int positions = (int) json.whole("max_position_embeddings", 1, MOST_POSITIONS);
        int keyValueHeads = (int) json.whole("num_key_value_heads", 1, LARGEST_WIDTH, heads);
        int headDim = (int) json.whole("head_dim", 1, LARGEST_WIDTH, hidden / heads);
        double epsilon = json.number("rms_norm_eps", Double.MIN_NORMAL, 1, 1e-6);
        Rope rope = Rope.of(json);
        boolean tied = json.truth("tie_word_embeddings", false);
        OptionalInt bos = token(json, "bos_token_id", vocabulary);
        OptionalInt eos = token(json, "eos_token_id", vocabulary);
        String dtype = dtype(json);
        try {
            return new ModelConfig(
                    vocabulary,
                    hidden,
                    intermediate,
                    layers,
                    heads,
                    keyValueHeads,
                    headDim,
                    positions,
                    epsilon,
                    rope.theta,
                    rope.factor,
                    tied,
                    bos,
                    eos,
                    dtype);
        } catch (UserException e) {
            throw json.within(e);
        }
    }

    private static void requireDenseLlama(JsonFields json) {
        String architecture = architecture(json);
        boolean deepseek = architecture.equals("DeepseekForCausalLM");
        if (!architecture.equals("LlamaForCausalLM") && !deepseek) {
            throw json.refusal(
                    "architectures",
                    "names " + architecture
                            + ", but Troika trains LlamaForCausalLM and dense DeepseekForCausalLM only");
        }
        if (deepseek && json.has("n_routed_experts")) {
            throw json.refusal(
                    "n_routed_experts",
                    "makes this DeepseekForCausalLM a mixture of experts, which Troika does not train");
        }
        for (String bias : new String[] {"attention_bias", "mlp_bias"}) {
            if (json.truth(bias, false)) {
                throw json.refusal(bias, "is true, but Troika's linear layers have no biases");
            }
        }
        String activation = json.string("hidden_act", "silu");
        if (!activation.equals("silu")) {
            throw json.refusal("hidden_act", "is " + activation + ", but must be silu");
        }
        if (json.has("quantization_config")) {
            throw json.refusal("quantization_config", "says the weights are quantized; give the unquantized model");
        }
        if (json.number("partial_rotary_factor", 0, 1, 1) != 1) {
            throw json.refusal("partial_rotary_factor", "must be 1");
        }
    }

    private static String architecture(JsonFields json) {
        JsonNode list = json.raw("architectures");
        if (list == null) {
            String type = json.string("model_type");
            return type.equals("llama")
                    ? "LlamaForCausalLM"
                    : type.equals("deepseek") ? "DeepseekForCausalLM" : "the model type " + type;
        }
        if (!list.isArray() || list.size() != 1 || !list.get(0).isString()) {
            throw json.refusal("architectures", "must be a list of one name");
        }
        return list.get(0).stringValue();
    }

    /// -1 and absence mean no token; of a list the first is taken.
    private static OptionalInt token(JsonFields json, String key, int vocabulary) {
        JsonNode value = json.raw(key);
        if (value != null && value.isArray() && !value.isEmpty()) {
            value = value.get(0);
        }
        if (value == null) {
            return OptionalInt.empty();
        }
        if (!value.isIntegralNumber()
                || !value.canConvertToInt()
                || value.intValue() < -1
                || value.intValue() >= vocabulary) {
            throw json.refusal(key, "must be a token of the vocabulary, from 0 to " + (vocabulary - 1));
        }
        return value.intValue() == -1 ? OptionalInt.empty() : OptionalInt.of(value.intValue());
    }

    private static String dtype(JsonFields json) {
        String dtype = agreeing(json, "dtype", json.string("dtype", ""), "torch_dtype", json.string("torch_dtype", ""));
        String name = dtype.startsWith("torch.") ? dtype.substring("torch.".length()) : dtype;
        if (name.isEmpty()) {
            return "float32";
        }
        if (!isDType(name)) {
            throw json.refusal(
                    json.has("dtype") ? "dtype" : "torch_dtype",
                    "is " + name + ", but must be float32, bfloat16 or float16");
        }
        return name;
    }

    private static String agreeing(JsonFields json, String key, String value, String otherKey, String other) {
        if (!value.isEmpty() && !other.isEmpty() && !value.equals(other)) {
            throw json.refusal(key, "is " + value + ", which contradicts " + otherKey + " " + other);
        }
        return value.isEmpty() ? other : value;
    }

    private static void putToken(ObjectNode json, String key, OptionalInt token) {
        if (token.isPresent()) {
            json.put(key, token.getAsInt());
        } else {
            json.putNull(key);
        }
    }

    private static boolean isDType(String name) {
        return name.equals("float32") || name.equals("bfloat16") || name.equals("float16");
    }

    private static void requireDType(String name) {
        if (!isDType(name)) {
            throw new UserException("The dtype " + name + " is not one of float32, bfloat16 and float16.");
        }
    }

    private static void within(String key, int value, int max) {
        check(value >= 1 && value <= max, key, value, "from 1 to " + max);
    }

    private static void tokenWithin(String key, OptionalInt token, int vocabulary) {
        token.ifPresent(id -> check(id >= 0 && id < vocabulary, key, id, "below vocab_size " + vocabulary));
    }

    private static void check(boolean holds, String key, Number value, String rule) {
        if (!holds) {
            throw new UserException(key + " is " + value + ", but must be " + rule + ".");
        }
    }

    /// The rotary embedding's base and linear factor, from whichever form the file uses; both must agree
    /// where both are there.
    private record Rope(double theta, double factor) {
        private static final double DEFAULT_THETA = 10_000;

        static Rope of(JsonFields json) {
            @Nullable JsonFields parameters = json.has("rope_parameters") ? json.object("rope_parameters") : null;
            @Nullable JsonFields scaling = json.has("rope_scaling") ? json.object("rope_scaling") : null;
            double theta = json.number("rope_theta", 1, 1e12, DEFAULT_THETA);
            double factor = scaling == null ? 1 : factor(scaling);
            if (parameters == null) {
                return new Rope(theta, factor);
            }
            double newTheta = parameters.number("rope_theta", 1, 1e12, theta);
            double newFactor = factor(parameters);
            if (json.has("rope_theta") && newTheta != theta) {
                throw json.refusal("rope_theta", "is " + theta + ", which contradicts rope_parameters' " + newTheta);
            }
            if (scaling != null && newFactor != factor) {
                throw json.refusal(
                        "rope_scaling", "has factor " + factor + ", which contradicts rope_parameters' " + newFactor);
            }
            return new Rope(newTheta, newFactor);
        }

        private static double factor(JsonFields rope) {
            String type = rope.string("rope_type", rope.string("type", "default"));
            if (rope.number("partial_rotary_factor", 0, 1, 1) != 1) {
                throw rope.refusal("partial_rotary_factor", "must be 1");
            }
            return switch (type) {
                case "default" -> 1;
                case "linear" -> rope.number("factor", 1, 1e6);
                default ->
                    throw rope.refusal("rope_type", "is " + type + ", but Troika scales positions linearly only");
            };
        }
    }
}
