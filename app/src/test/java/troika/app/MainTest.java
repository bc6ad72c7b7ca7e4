package troika.app;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class MainTest {
    @TempDir
    Path folder = Path.of("");

    private final ByteArrayOutputStream out = new ByteArrayOutputStream();
    private final ByteArrayOutputStream err = new ByteArrayOutputStream();

    private int run(String... arguments) {
        return Main.run(
                arguments,
                new PrintStream(out, true, UTF_8),
                new PrintStream(err, true, UTF_8),
                folder.resolve("troika-error.log"));
    }

    /// Semicolons separate arguments.
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "train;--modle;x | There is no option --modle; did you mean --model? See troika train --help.",
                "trian | There is no use for the argument trian; did you mean train? See troika --help.",
                "train;--max-steps;ten | is not a whole number: see troika train --help.",
                "train;--learning-rate;ten | is not a number: see troika train --help.",
                "train;--model | troika train --help.",
                "train;--model;a;--model;b | should be specified only once: see troika train --help.",
                "train | --model is missing: give a model folder or a preset such as quickstart.",
                "train;--model;quickstart | --data is missing",
                "train;--deterministic;yes | --deterministic must be on or off",
                "train;--dtype;fp8 | --dtype must be fp32, bf16 or fp16",
                "train;--recompute;all | --recompute must be one of none, elementwise, layer",
                "train;--config;none.json;--model;a;--data;b | none.json does not exist",
                "generate | --model is missing",
                "generate;--model;none | The model folder none does not exist",
                "quickstart;--devices;gpu:3 | --devices gpu:3",
                "quickstart;--max-steps;-1 | --max-steps must be at least 0, and is -1.",
            })
    void aMistakeIsOneSentenceAndStatusTwo(String arguments, String sentence) {
        assertThat(run(arguments.split(";"))).isEqualTo(2);
        assertThat(err.toString(UTF_8).lines())
                .singleElement()
                .asString()
                .contains(sentence)
                .matches(".*[.?]");
        assertThat(folder).isEmptyDirectory();
    }

    @Test
    void helpNamesAllOptionsWithTheirDefaults() {
        assertThat(run("train", "--help")).isZero();
        String help = out.toString(UTF_8);
        assertThat(help)
                .contains(List.of(
                        "--model=",
                        "--from-scratch",
                        "--data=",
                        "--tokenizer=",
                        "--config=",
                        "--devices=",
                        "--num-gpus, --num_gpus=",
                        "--dtype=",
                        "--sequence-length=",
                        "--train-batch-size=",
                        "--micro-batch-size, --per-device-train-batch-size=",
                        "--gradient-accumulation-steps=",
                        "--num-train-epochs=",
                        "--max-steps=",
                        "--learning-rate=",
                        "--weight-decay=",
                        "--adam-beta1=",
                        "--adam-beta2=",
                        "--adam-epsilon=",
                        "--lr-scheduler-type=",
                        "--warmup-steps=",
                        "--min-learning-rate=",
                        "--max-grad-norm=",
                        "--zero-stage=",
                        "--recompute=",
                        "--eval-data=",
                        "--eval-steps=",
                        "--logging-steps=",
                        "--save-strategy=",
                        "--save-steps=",
                        "--save-total-limit=",
                        "--optimizer-states=",
                        "--save-dtype=",
                        "--deterministic=",
                        "--seed=",
                        "--output=",
                        "--resume[=",
                        "--dump-program="))
                .contains("(default: 5e-5)", "(default: 0.999)");
        assertThat(run("--help")).isZero();
        assertThat(run("--version")).isZero();
        assertThat(err.size()).isZero();
    }

    @Test
    void theArticlesFileGetsASentenceForEachThingThatIsMissing() throws Exception {
        Path file = folder.resolve("ds.json");
        Files.writeString(file, """
                {"train_batch_size": 12, "gradient_accumulation_steps": 4,
                 "fp16": {"enabled": true}, "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"},
                 "offload_optimizer": {"device": "cpu"}}}
                """);
        assertThat(run(
                        "train",
                        "--model",
                        "quickstart",
                        "--data",
                        "jdk",
                        "--config",
                        file.toString(),
                        "--num_gpus",
                        "3"))
                .isEqualTo(2);
        assertThat(err.toString(UTF_8).lines()).hasSize(2).allMatch(line -> line.startsWith(file + ": "));
    }

    @Test
    void aDefectOfTroikaIsStatusOneWithItsTraceInALog() throws Exception {
        PrintStream broken = new PrintStream(out, true, UTF_8) {
            @Override
            public void println(Object text) {
                throw new IllegalStateException("broken");
            }

            @Override
            public void print(String text) {
                throw new IllegalStateException("broken");
            }

            @Override
            public void print(Object text) {
                throw new IllegalStateException("broken");
            }
        };
        Path log = folder.resolve("troika-error.log");
        int status = Main.run(new String[] {"--help"}, broken, new PrintStream(err, true, UTF_8), log);
        assertThat(status).isEqualTo(1);
        assertThat(err.toString(UTF_8).lines())
                .singleElement()
                .asString()
                .contains("broken")
                .contains("troika-error.log");
        assertThat(Files.readString(log))
                .contains("IllegalStateException: broken")
                .contains("\tat ");
    }
}
