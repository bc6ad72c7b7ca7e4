package troika.model;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;

/// Model shapes known by name.
public final class Presets {
    private static final Map<String, ModelConfig> PRESETS = presets();

    private Presets() {}

    /// The shape of this name, if there is one.
    public static Optional<ModelConfig> find(String name) {
        return Optional.ofNullable(PRESETS.get(name));
    }

    /// All names.
    public static List<String> names() {
        return List.copyOf(PRESETS.keySet());
    }

    private static Map<String, ModelConfig> presets() {
        var presets = new LinkedHashMap<String, ModelConfig>();
        var none = OptionalInt.empty();
        // Byte vocabulary (256 bytes, <bos>, <eos>), rounded up to a multiple of 8.
        presets.put(
                "quickstart",
                dense(
                        264,
                        256,
                        688,
                        4,
                        8,
                        2048,
                        OptionalInt.of(ByteTokenizer.BOS),
                        OptionalInt.of(ByteTokenizer.EOS),
                        "float32"));
        presets.put("tiny", dense(4096, 256, 688, 4, 8, 2048, none, none, "float32"));
        presets.put(
                "160m",
                dense(32_256, 768, 2048, 12, 12, 2048, OptionalInt.of(32_013), OptionalInt.of(32_014), "float32"));
        presets.put(
                "deepseek-coder-1.3b",
                new ModelConfig(
                        32_256,
                        2048,
                        5504,
                        24,
                        16,
                        16,
                        128,
                        16_384,
                        1e-6,
                        100_000,
                        4,
                        false,
                        OptionalInt.of(32_013),
                        OptionalInt.of(32_014),
                        "bfloat16"));
        presets.put(
                "deepseek-llm-7b",
                dense(
                        102_400,
                        4096,
                        11_008,
                        30,
                        32,
                        4096,
                        OptionalInt.of(100_000),
                        OptionalInt.of(100_001),
                        "bfloat16"));
        presets.put(
                "article-48l",
                dense(50_257, 4096, 11_008, 48, 32, 2048, OptionalInt.of(50_256), OptionalInt.of(50_256), "bfloat16"));
        return presets;
    }

    private static ModelConfig dense(
            int vocabulary,
            int hidden,
            int intermediate,
            int layers,
            int heads,
            int positions,
            OptionalInt bos,
            OptionalInt eos,
            String dtype) {
        return new ModelConfig(
                vocabulary,
                hidden,
                intermediate,
                layers,
                heads,
                heads,
                hidden / heads,
                positions,
                1e-6,
                10_000,
                1,
                false,
                bos,
                eos,
                dtype);
    }
}
