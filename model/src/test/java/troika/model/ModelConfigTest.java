package troika.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.OptionalInt;
import java.util.Random;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import troika.tensor.UserException;

class ModelConfigTest {
    private static final String SIZES = """
            "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 128, "architectures": ["LlamaForCausalLM"]""";

    private static ModelConfig parse(String json) {
        return ModelConfig.parse("config.json", json.getBytes(StandardCharsets.UTF_8));
    }

    private static ModelConfig with(String more) {
        return parse("{" + SIZES + ", " + more + "}");
    }

    @Test
    void defaultsAreTransformers() {
        ModelConfig config = parse("{" + SIZES + "}");
        assertThat(config)
                .isEqualTo(new ModelConfig(
                        100,
                        32,
                        64,
                        2,
                        4,
                        4,
                        8,
                        128,
                        1e-6,
                        10_000,
                        1,
                        false,
                        OptionalInt.empty(),
                        OptionalInt.empty(),
                        "float32"));
    }

    @Test
    void readsTransformers4() {
        ModelConfig config = with("""
                "rope_theta": 100000, "rope_scaling": {"type": "linear", "factor": 4.0}, "torch_dtype": "bfloat16",
                "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "tie_word_embeddings": true, "bos_token_id": 1,
                "eos_token_id": [2, 3], "mlp_bias": false""");
        assertThat(config.ropeTheta()).isEqualTo(100_000);
        assertThat(config.ropeScalingFactor()).isEqualTo(4);
        assertThat(config.dtype()).isEqualTo("bfloat16");
        assertThat(config.keyValueHeads()).isEqualTo(2);
        assertThat(config.rmsNormEpsilon()).isEqualTo(1e-5);
        assertThat(config.tieWordEmbeddings()).isTrue();
        assertThat(config.bosTokenId()).hasValue(1);
        assertThat(config.eosTokenId()).hasValue(2);
    }

    @Test
    void readsTransformers5() {
        ModelConfig config = with("""
                "rope_parameters": {"rope_theta": 5000.0, "rope_type": "linear", "type": "linear", "factor": 2},
                "dtype": "float16", "rope_scaling": null""");
        assertThat(config.ropeTheta()).isEqualTo(5000);
        assertThat(config.ropeScalingFactor()).isEqualTo(2);
        assertThat(config.dtype()).isEqualTo("float16");
    }

    @Test
    void denseDeepseekIsLlama() {
        String deepseek = SIZES.replace("Llama", "Deepseek");
        assertThat(parse("{" + deepseek + ", \"n_routed_experts\": null}").layers())
                .isEqualTo(2);
        assertThatThrownBy(() -> parse("{" + deepseek + ", \"n_routed_experts\": 64}"))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("mixture of experts");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "\"hidden_act\": \"gelu\" | hidden_act",
                "\"attention_bias\": true | attention_bias",
                "\"mlp_bias\": true | mlp_bias",
                "\"mlp_bias\": 1 | mlp_bias",
                "\"num_key_value_heads\": 3 | num_key_value_heads",
                "\"num_key_value_heads\": 0 | num_key_value_heads",
                "\"head_dim\": 7 | head_dim",
                "\"head_dim\": 1000000 | head_dim",
                "\"rms_norm_eps\": 0 | rms_norm_eps",
                "\"rms_norm_eps\": \"small\" | rms_norm_eps",
                "\"rope_theta\": 1e400 | rope_theta",
                "\"rope_theta\": -1 | rope_theta",
                "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4} | yarn",
                "\"rope_scaling\": {\"type\": \"linear\"} | rope_scaling.factor",
                "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5} | rope_scaling.factor",
                "\"rope_scaling\": 4 | rope_scaling",
                "\"rope_parameters\": {\"rope_type\": \"llama3\"} | llama3",
                "\"rope_theta\": 10, \"rope_parameters\": {\"rope_theta\": 20} | contradicts",
                "\"torch_dtype\": \"float16\", \"dtype\": \"float32\" | contradicts",
                "\"torch_dtype\": \"float64\" | torch_dtype",
                "\"bos_token_id\": 100 | bos_token_id",
                "\"eos_token_id\": 1.5 | eos_token_id",
                "\"quantization_config\": {} | quantization_config",
                "\"vocab_size\": 7 | JSON",
            })
    void refusals(String more, String named) {
        assertThatThrownBy(() -> with(more))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("config.json")
                .hasMessageContaining(named);
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "max_position_embeddings"
            })
    void sizesAreRequiredWholeAndBounded(String key) {
        for (String bad :
                new String[] {"null", "0", "-1", "1.0", "\"5\"", "[5]", "99999999999", "123456789012345678901234567890"
                }) {
            String json = "{" + SIZES.replaceFirst("\"" + key + "\": \\d+", "\"" + key + "\": " + bad) + "}";
            assertThatThrownBy(() -> parse(json))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("config.json")
                    .hasMessageContaining(key);
        }
    }

    @Test
    void namesForeignArchitecture() {
        assertThatThrownBy(() -> parse("{" + SIZES.replace("Llama", "Mistral") + "}"))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("MistralForCausalLM");
    }

    @Test
    void hiddenSizeMustDivide() {
        assertThatThrownBy(() -> parse("{" + SIZES.replace("\"hidden_size\": 32", "\"hidden_size\": 30") + "}"))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("hidden_size");
        String explicit = SIZES.replace("\"hidden_size\": 32", "\"hidden_size\": 30") + ", \"head_dim\": 16";
        assertThat(parse("{" + explicit + "}").headDim()).isEqualTo(16);
    }

    @Test
    void missingFileIsNamed(@TempDir Path directory) {
        assertThatThrownBy(() -> ModelConfig.read(directory))
                .isInstanceOf(UserException.class)
                .hasMessageContainingAll("config.json", directory.toString());
    }

    @Test
    void parameterCounts() {
        assertThat(Presets.find("tiny").orElseThrow().parameterCount()).isEqualTo(5_261_568);
        assertThat(Presets.find("deepseek-llm-7b").orElseThrow().parameterCount())
                .isEqualTo(6_910_365_696L);
        assertThat(Presets.find("deepseek-coder-1.3b").orElseThrow().parameterCount())
                .isEqualTo(1_346_471_936L);
        assertThat((double) Presets.find("160m").orElseThrow().parameterCount()).isCloseTo(160e6, within(30e6));
        assertThat(Presets.find("gpt")).isEmpty();
    }

    @Test
    void presetsSurviveWriting(@TempDir Path directory) throws IOException {
        assertThat(Presets.names()).contains("quickstart", "article-48l");
        for (String name : Presets.names()) {
            ModelConfig preset = Presets.find(name).orElseThrow();
            preset.write(directory, preset.dtype());
            assertThat(ModelConfig.read(directory)).as(name).isEqualTo(preset);
        }
    }

    /// Any damage is either harmless or refused in a sentence.
    @Property(tries = 3000)
    void fuzz(@ForAll long seed, @ForAll @IntRange(min = 1, max = 4) int mutations) {
        byte[] json = Presets.find("deepseek-coder-1.3b").orElseThrow().json("bfloat16");
        byte[] mutated = Mutation.of(json, mutations, new Random(seed));
        try {
            assertThat(ModelConfig.parse("config.json", mutated).parameterCount())
                    .isPositive();
        } catch (UserException e) {
            assertThat(e.getMessage()).contains("config.json").endsWith(".");
        }
    }
}
