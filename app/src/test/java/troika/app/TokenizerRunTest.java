package troika.app;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.model.Tokenizer;

/// A whole run with a tokenizer of Hugging Face's kind: byte-level BPE of 56 tokens with merges.
class TokenizerRunTest {
    private static final String SENTENCE = "the ranks hold one model and each of them holds a third of the moments";

    private static final String TRAIN = "train --from-scratch --devices cpu:1 --dtype fp32 --train-batch-size 1"
            + " --max-steps 150 --save-strategy no --learning-rate 1e-2 --lr-scheduler-type cosine --weight-decay 0";

    @TempDir
    Path folder = Path.of("");

    private final ByteArrayOutputStream out = new ByteArrayOutputStream();
    private final ByteArrayOutputStream err = new ByteArrayOutputStream();

    private void run(String... arguments) {
        out.reset();
        int status = Main.run(
                arguments,
                new PrintStream(out, true, UTF_8),
                new PrintStream(err, true, UTF_8),
                folder.resolve("troika-error.log"));
        assertThat(err.toString(UTF_8)).isEmpty();
        assertThat(status).isZero();
    }

    private String path(String name) {
        return folder.resolve(name).toString();
    }

    /// A short text, learned by heart, is what the saved model goes on with, by its saved tokenizer.
    @Test
    void trainsAndGenerates() throws Exception {
        System.setProperty("troika.cache", path("cache"));
        Path file = Path.of(Objects.requireNonNull(TokenizerRunTest.class.getResource("bpe/tokenizer.json"))
                .toURI());
        int tokens;
        try (Tokenizer tokenizer = Tokenizer.open(file.resolveSibling(""))) {
            tokens = tokenizer.encode(SENTENCE).length;
        }
        assertThat(tokens).isBetween(10, SENTENCE.length() / 2);
        Files.createDirectories(folder.resolve("m"));
        Files.writeString(
                folder.resolve("m/config.json"),
                BadInputTest.CONFIG.replace("\"vocab_size\": 264", "\"vocab_size\": 64"));
        Files.writeString(folder.resolve("text.txt"), SENTENCE);
        List<String> train = new ArrayList<>(List.of(TRAIN.split(" ")));
        train.addAll(List.of("--sequence-length", String.valueOf(tokens + 1), "--model", path("m")));
        train.addAll(List.of("--tokenizer", file.toString(), "--data", path("text.txt"), "--output", path("run")));
        run(train.toArray(String[]::new));
        for (String name : new String[] {"tokenizer.json", "tokenizer_config.json"}) {
            assertThat(folder.resolve("run/model").resolve(name)).hasSameBinaryContentAs(file.resolveSibling(name));
        }
        run("generate", "--model", path("run/model"), "--prompt", "the ranks", "--temperature", "0");
        // The token that ends documents ends it, long before the 200 tokens that are allowed.
        assertThat(out.toString(UTF_8).strip()).isEqualTo(SENTENCE);
    }
}
