package troika.train.config;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import java.util.stream.Collectors;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import troika.tensor.UserException;

class DeepSpeedFuzzTest {
    private static final List<String> KEYS = List.of(
            "train_batch_size",
            "gradient_clipping",
            "optimizer",
            "type",
            "params",
            "lr",
            "betas",
            "scheduler",
            "warmup_num_steps",
            "fp16",
            "bf16",
            "enabled",
            "zero_optimization",
            "stage",
            "offload_param",
            "device",
            "aio",
            "block_size",
            "pipeline",
            "stages",
            "comms_logger",
            "prof_ops",
            "data_types",
            "tensorboard",
            "",
            "a");

    @Property(tries = 500)
    void anyJsonOfKnownKeysParsesOrIsRefused(@ForAll("json") String json) {
        survives(json);
    }

    @Property(tries = 300)
    void anyDamageToAFileParsesOrIsRefused(@ForAll @IntRange(max = 600) int at, @ForAll char replacement) {
        String article = DeepSpeedConfigTest.ARTICLE;
        int index = at % article.length();
        survives(article.substring(0, index));
        survives(article.substring(0, index) + replacement + article.substring(index + 1));
    }

    @Property(tries = 300)
    void anyTextParsesOrIsRefused(@ForAll String text) {
        survives(text);
    }

    @Test
    void deepNestingAndHugeNumbersAreRefused() {
        survives("{\"a\":".repeat(100_000));
        survives("{\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": " + "9".repeat(100_000) + "}}}");
        survives("{\"train_batch_size\": 1e999999999}");
        survives("{\"train_batch_size\": 1e-999999999}");
        survives("{\"train_batch_size\": 9223372036854775808}");
        survives("{\"" + "k".repeat(200_000) + "\": 1}");
    }

    @Provide
    Arbitrary<String> json() {
        return json(4);
    }

    /// Objects at most `depth` deep: of unlimited ones the generator makes endless many.
    private static Arbitrary<String> json(int depth) {
        Arbitrary<String> leaf = Arbitraries.of(
                "true",
                "false",
                "null",
                "0",
                "1",
                "-1",
                "3",
                "5e8",
                "1e400",
                "0.5",
                "\"auto\"",
                "\"AdamW\"",
                "\"WarmupLR\"",
                "\"cpu\"",
                "[0.9, 0.95]",
                "[]",
                "[[{}]]",
                "{}",
                "\"\"",
                "\"\\u0000\\n\"");
        return depth == 0 ? leaf : Arbitraries.oneOf(leaf, leaf, object(json(depth - 1)));
    }

    private static Arbitrary<String> object(Arbitrary<String> values) {
        return Arbitraries.maps(Arbitraries.of(KEYS), values)
                .ofMaxSize(5)
                .map(map -> map.entrySet().stream()
                        .map(entry -> "\"" + entry.getKey() + "\": " + entry.getValue())
                        .collect(Collectors.joining(", ", "{", "}")));
    }

    private static void survives(String json) {
        try {
            DeepSpeedSupport.unsupported(DeepSpeedConfig.parse("ds.json", json));
        } catch (UserException e) {
            assertThat(e.getMessage())
                    .startsWith("ds.json")
                    .hasSizeLessThan(600)
                    .doesNotContain("\n");
        }
    }
}
