package troika.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.tensor.UserException;

class TokenizerTest {
    private static final HuggingFaceTokenizer BYTES_BY_LIBRARY =
            HuggingFaceTokenizer.open(Path.of("nowhere", Tokenizer.FILE), ByteTokenizer.tokenizerJson());
    private static final String MIXED =
            "Grüße,\n\n\t世界! 🐎🇩🇪 👩‍👩‍👧 \u0000 \u00ad\u00a0 é é ﷽ \r\n  x = a[i]; // ok";

    @Provide
    Arbitrary<String> texts() {
        // Whole characters only: half a surrogate pair is no Unicode text.
        return Arbitraries.integers()
                .between(0, Character.MAX_CODE_POINT)
                .filter(c -> c < Character.MIN_SURROGATE || c > Character.MAX_SURROGATE)
                .list()
                .ofMaxSize(200)
                .map(list -> list.stream()
                        .collect(StringBuilder::new, StringBuilder::appendCodePoint, StringBuilder::append)
                        .toString());
    }

    @Property(tries = 300)
    void libraryGivesTheSameIds(@ForAll("texts") String text) {
        assertSame(text);
    }

    @Property(tries = 300)
    void libraryGivesTheSameIdsForAscii(@ForAll String text) {
        assertSame(new String(text.getBytes(StandardCharsets.UTF_8), StandardCharsets.UTF_8));
    }

    @Test
    void libraryGivesTheSameIdsForMixedText() {
        assertSame(MIXED);
        assertSame(MIXED.repeat(2000));
        assertSame("");
        assertThat(BYTES_BY_LIBRARY.encode("a<eos>")).containsExactly('a', 257);
    }

    private static void assertSame(String text) {
        var bytes = new ByteTokenizer();
        int[] ids = bytes.encode(text);
        assertThat(BYTES_BY_LIBRARY.encode(text)).isEqualTo(ids);
        assertThat(bytes.decode(ids)).isEqualTo(text);
        assertThat(BYTES_BY_LIBRARY.decode(ids)).isEqualTo(text);
    }

    @Test
    void byteTokenizerIsRecognised(@TempDir Path directory) throws IOException {
        ByteTokenizer.write(directory);
        Tokenizer tokenizer = Tokenizer.open(directory);
        assertThat(tokenizer).isInstanceOf(ByteTokenizer.class);
        assertThat(tokenizer.vocabularySize()).isEqualTo(258);
        assertThat(tokenizer.eosId()).hasValue(257);
    }

    @Test
    void specialTokensComeFromTheSiblings(@TempDir Path directory) throws IOException {
        Path file = Files.write(directory.resolve(Tokenizer.FILE), withSpace(ByteTokenizer.tokenizerJson()));
        try (Tokenizer none = Tokenizer.open(directory)) {
            assertThat(none).isInstanceOf(HuggingFaceTokenizer.class);
            assertThat(none.eosId()).isEmpty();
            assertThat(none.vocabularySize()).isEqualTo(258);
        }
        Files.writeString(file.resolveSibling(ModelConfig.FILE), "{\"eos_token_id\": [255, 3], \"bos_token_id\": 900}");
        try (Tokenizer fromModel = Tokenizer.open(directory)) {
            assertThat(fromModel.eosId()).hasValue(255);
            assertThat(fromModel.bosId()).isEmpty();
        }
        Files.writeString(
                file.resolveSibling("tokenizer_config.json"),
                "{\"eos_token\": {\"content\": \"<eos>\"}, \"bos_token\": \"A\"}");
        try (Tokenizer both = Tokenizer.open(directory)) {
            assertThat(both.eosId()).hasValue(257);
            assertThat(both.bosId()).hasValue('A');
            assertThat(both.decode('H', 'i', 257)).isEqualTo("Hi");
            assertThatThrownBy(() -> both.decode(258))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("258");
            assertThatThrownBy(() -> both.decode(-1)).isInstanceOf(UserException.class);
        }
    }

    private static byte[] withSpace(byte[] json) {
        return (new String(json, StandardCharsets.UTF_8) + " ").getBytes(StandardCharsets.UTF_8);
    }

    @Test
    void truncationInTheFileIsIgnored() {
        String json = new String(ByteTokenizer.tokenizerJson(), StandardCharsets.UTF_8)
                .replace(
                        "\"truncation\" : null",
                        "\"truncation\" : {\"direction\":\"Right\",\"max_length\":3,\"strategy\":\"LongestFirst\",\"stride\":0}");
        try (var tokenizer =
                HuggingFaceTokenizer.open(Path.of("nowhere", "t.json"), json.getBytes(StandardCharsets.UTF_8))) {
            assertThat(json).contains("max_length");
            assertThat(tokenizer.encode("abcdef")).hasSize(6);
        }
    }

    @Test
    void malformedFilesAreNamed(@TempDir Path directory) throws IOException {
        assertThatThrownBy(() -> Tokenizer.open(directory))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("tokenizer.json");
        for (String bad : new String[] {
            "",
            "[]",
            "{}",
            "{\"model\": {}}",
            "{\"model\": {\"vocab\": 3}}",
            "{\"model\": {\"vocab\": {\"a\": -1}}}",
            "{\"model\": {\"vocab\": {}}}",
            "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"x y\"]}}",
            "{\"model\": {\"vocab\": {\"a\": 0}}, \"added_tokens\": {}}"
        }) {
            Files.writeString(directory.resolve("tokenizer.json"), bad);
            assertThatThrownBy(() -> Tokenizer.open(directory))
                    .as(bad)
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("tokenizer.json");
        }
    }

    @Test
    void fingerprintTellsTokenizersApart() {
        String json = new String(ByteTokenizer.tokenizerJson(), StandardCharsets.UTF_8).replace("<eos>", "<end>");
        try (var other =
                HuggingFaceTokenizer.open(Path.of("nowhere", "t.json"), json.getBytes(StandardCharsets.UTF_8))) {
            assertThat(other.fingerprint())
                    .isNotEqualTo(BYTES_BY_LIBRARY.fingerprint())
                    .matches("[0-9a-z-]+");
        }
    }

    @Test
    void streamingHoldsBackPartsOfCharacters() {
        for (Tokenizer tokenizer : new Tokenizer[] {new ByteTokenizer(), BYTES_BY_LIBRARY}) {
            var decoder = new StreamingDecoder(tokenizer);
            var text = new StringBuilder();
            for (int id : tokenizer.encode(MIXED)) {
                String piece = decoder.append(id);
                assertThat(piece).doesNotContain("\ufffd");
                text.append(piece);
            }
            assertThat(text + decoder.finish()).isEqualTo(MIXED);
        }
    }

    @Test
    void streamingShowsBrokenBytesInTheEnd() {
        var decoder = new StreamingDecoder(new ByteTokenizer());
        assertThat(decoder.append('a')).isEqualTo("a");
        assertThat(decoder.append(0xf0)).isEmpty();
        assertThat(decoder.finish()).isEqualTo("\ufffd");
        var text = new StringBuilder();
        for (int i = 0; i < 100; i++) {
            text.append(decoder.append(0x80));
        }
        assertThat(text.length()).isGreaterThan(80);
    }
}
