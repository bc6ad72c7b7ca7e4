package troika.app;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.train.Certificate;

class CertifyCommandTest {
    @TempDir
    Path folder = Path.of("");

    private final ByteArrayOutputStream out = new ByteArrayOutputStream();
    private final ByteArrayOutputStream err = new ByteArrayOutputStream();

    private int certify(String... more) throws IOException {
        Files.createDirectories(folder.resolve("m"));
        Files.writeString(folder.resolve("m/config.json"), BadInputTest.CONFIG);
        List<String> arguments = new ArrayList<>(
                List.of("certify", "--model", folder.resolve("m").toString()));
        arguments.addAll(List.of(
                "--data synthetic --tokenizer byte --dtype fp32 --devices cpu:1 --sequence-length 32".split(" ", -1)));
        arguments.addAll(List.of("--train-batch-size", "5", "--max-steps", "3", "--learning-rate", "3e-4"));
        arguments.addAll(List.of("--output", folder.resolve("temporary").toString()));
        arguments.addAll(List.of(more));
        return Main.run(
                arguments.toArray(String[]::new),
                new PrintStream(out, true, UTF_8),
                new PrintStream(err, true, UTF_8),
                folder.resolve("troika-error.log"));
    }

    private void assertNothingIsLeft() throws IOException {
        try (Stream<Path> files = Files.list(folder.resolve("temporary"))) {
            assertThat(files).isEmpty();
        }
    }

    @Test
    void layoutsAgree() throws IOException {
        int status = certify("--layout", "dp1", "--layout", "dp3 zero1", "--layout", "dp2 zero2 recompute");
        assertThat(err.toString(UTF_8)).isEmpty();
        assertThat(status).isZero();
        assertThat(out.toString(UTF_8))
                .contains("Training 3 steps as dp3 zero1 on cpu:3 (layout 0-2:dp3)")
                .containsPattern("(?m)^loss of step +dp3 zero1 +dp2 zero2 recompute$")
                .containsPattern("(?m)^3 +\\S+ +\\S+$")
                .containsPattern("(?m)^model\\.layers\\.\\S+ +\\S+ +\\S+$")
                .containsPattern("(?m)^agrees +yes +yes$")
                .endsWith("All layouts agree: losses within 1.0e-05, weights within 1.0e-04%n".formatted());
        assertNothingIsLeft();
    }

    @Test
    void whatDiffersByMoreThanTheToleranceFails() throws IOException {
        // Sums over ranks are not in the same order as sums over sequences.
        assertThat(certify("--layout", "dp1", "--layout", "dp3", "--tolerance", "0"))
                .isEqualTo(1);
        assertThat(out.toString(UTF_8)).contains("The layouts do not agree: losses within 0.0e+00");
        assertNothingIsLeft();
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "dp1 | dp1 pp9 | the model has 2: use at most 2 stages",
                "dp1 | fast | is not understood",
                "dp1 | dp9 | 5 is fewer sequences than the 9 microbatches",
                "dp1 | dp2 shares=1 | There is 1 share for 2 ranks",
            })
    void badLayoutsAreFoundBeforeTheFirstRun(String first, String second, String sentence) throws IOException {
        assertThat(certify("--layout", first, "--layout", second)).isEqualTo(2);
        assertThat(err.toString(UTF_8).lines()).singleElement().asString().contains(sentence);
        assertThat(err.toString(UTF_8)).contains("--layout \"" + second + "\"");
        assertThat(out.toString(UTF_8)).isEmpty();
        assertThat(folder.resolve("temporary")).doesNotExist();
    }

    @Test
    void oneLayoutIsNoComparison() throws IOException {
        assertThat(certify("--layout", "dp1")).isEqualTo(2);
        assertThat(err.toString(UTF_8)).contains("give --layout twice or more");
    }

    @Test
    void differencesAreRelative() {
        Certificate certificate = new Certificate(
                List.of("a", "b", "c"),
                List.of(List.of(2.0, 4.0), List.of(2.0, 4.0004), List.of(Double.NaN, 4.0)),
                List.of(Map.of("w", 0.0), Map.of("w", 1e-5), Map.of("w", 0.0)),
                2e-4,
                2e-4);
        assertThat(certificate.lossDifference(1)).isBetween(0.9e-4, 1.1e-4);
        assertThat(certificate.holds(1)).isTrue();
        // What is not finite agrees with nothing finite.
        assertThat(certificate.holds(2)).isFalse();
        assertThat(certificate.holds()).isFalse();
        Certificate spoilt = new Certificate(
                List.of("a", "b"),
                List.of(List.of(2.0), List.of(2.0)),
                List.of(Map.of("w", 0.0), Map.of("w", Double.NaN, "v", 0.0)),
                1,
                1);
        assertThat(spoilt.holds()).isFalse();
    }
}
