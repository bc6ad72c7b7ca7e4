package troika.model;

import java.util.ArrayList;
import java.util.List;
import troika.tensor.Shape;

/// Where a parameter lies in files of Hugging Face's naming. Troika stores some of their tensors as one,
/// row behind row: queries, keys and values, and gates and ups; each of these is one product then.
public final class HuggingFaceNames {
    /// One of the tensors that make up a parameter.
    ///
    /// @param firstRow the parameter's row at which it begins
    public record Part(String name, Shape shape, long firstRow) {}

    private HuggingFaceNames() {}

    /// The tensors of a parameter of [DeepSeekLlm], in the order of rows.
    public static List<Part> parts(ModelConfig config, String parameter) {
        long hidden = config.hiddenSize();
        long attention = (long) config.heads() * config.headDim();
        long keyValue = (long) config.keyValueHeads() * config.headDim();
        long intermediate = config.intermediateSize();
        return switch (parameter) {
            case "embedding.weight" -> single("model.embed_tokens.weight", new Shape(config.vocabSize(), hidden));
            case "head.norm" -> single("model.norm.weight", new Shape(hidden));
            case "head.weight" -> single("lm_head.weight", new Shape(config.vocabSize(), hidden));
            default -> {
                int end = parameter.indexOf('.', "layers.".length());
                String layer = "model." + parameter.substring(0, end) + ".";
                yield switch (parameter.substring(end + 1)) {
                    case "attention.norm" -> single(layer + "input_layernorm.weight", new Shape(hidden));
                    case "attention.qkv" ->
                        stacked(
                                hidden,
                                List.of("q_proj", "k_proj", "v_proj"),
                                List.of(attention, keyValue, keyValue),
                                layer + "self_attn.");
                    case "attention.out" -> single(layer + "self_attn.o_proj.weight", new Shape(hidden, attention));
                    case "mlp.norm" -> single(layer + "post_attention_layernorm.weight", new Shape(hidden));
                    case "mlp.gateUp" ->
                        stacked(
                                hidden,
                                List.of("gate_proj", "up_proj"),
                                List.of(intermediate, intermediate),
                                layer + "mlp.");
                    case "mlp.down" -> single(layer + "mlp.down_proj.weight", new Shape(hidden, intermediate));
                    default -> throw new IllegalArgumentException("no parameter " + parameter);
                };
            }
        };
    }

    private static List<Part> single(String name, Shape shape) {
        return List.of(new Part(name, shape, 0));
    }

    private static List<Part> stacked(long columns, List<String> names, List<Long> rows, String prefix) {
        List<Part> parts = new ArrayList<>();
        long row = 0;
        for (int i = 0; i < names.size(); i++) {
            parts.add(new Part(prefix + names.get(i) + ".weight", new Shape(rows.get(i), columns), row));
            row += rows.get(i);
        }
        return parts;
    }
}
