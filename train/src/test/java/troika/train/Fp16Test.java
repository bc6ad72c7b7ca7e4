package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.model.ModelWeights;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.config.TrainingOptionsBuilder;

/// Training in fp16 with a loss scale, and with moments in bf16.
class Fp16Test {
    @TempDir
    Path folder = Path.of("");

    /// A job in `folder`/`name`; the keys are those of DeepSpeed's fp16 section, besides `enabled`.
    private TrainingOptionsBuilder job(String name, String keys) throws IOException {
        Path file = folder.resolve(name + ".json");
        Files.writeString(file, "{\"fp16\": {\"enabled\": true" + keys + "}}");
        return Runs.job(folder).dtype(DType.F16).output(folder.resolve(name)).configFile(file);
    }

    private List<StepMetrics> steps(TrainingOptionsBuilder options) {
        List<StepMetrics> steps = new ArrayList<>();
        Trainer.of(options.build())
                .listener(new TrainingListener() {
                    @Override
                    public void onStep(StepMetrics metrics) {
                        steps.add(metrics);
                    }
                })
                .build()
                .train();
        return steps;
    }

    @ParameterizedTest
    @CsvSource({"cpu:1, 0", "cpu:3, 2"})
    void lossesAreThoseOfFp32(String devices, int stage) throws Exception {
        Runs.train(Runs.job(folder).output(folder.resolve("fp32")).maxSteps(20).learningRate(1e-3));
        List<Double> expected = Runs.losses(folder.resolve("fp32"));
        List<StepMetrics> steps = steps(
                job("fp16", "").maxSteps(20).learningRate(1e-3).devices(devices).zeroStage(stage));
        assertThat(steps).hasSize(20).noneMatch(StepMetrics::skipped).allMatch(step -> step.lossScale() == 65536);
        for (int i = 0; i < 20; i++) {
            assertThat(steps.get(i).loss()).isCloseTo(expected.get(i), within(5e-3 * expected.get(i)));
        }
        assertThat(expected.getLast()).isLessThan(expected.getFirst() - 0.5);
    }

    /// From 2³⁰ down to a scale whose gradients are finite; skipped steps move data on, and nothing else.
    @Test
    void recoversFromAScaleThatIsTooLarge() throws Exception {
        List<StepMetrics> steps =
                steps(job("fp16", ", \"initial_scale_power\": 30").maxSteps(32).learningRate(1e-3));
        int skipped = 0;
        while (steps.get(skipped).skipped()) {
            skipped++;
        }
        assertThat(skipped).isBetween(4, 16);
        assertThat(steps.get(0).lossScale()).isEqualTo(0x1p30);
        assertThat(steps.get(1).lossScale()).isEqualTo(0x1p30);
        assertThat(steps.get(2).lossScale()).isEqualTo(0x1p29);
        // The schedule waits for the first step that counts.
        assertThat(steps.get(skipped).learningRate()).isEqualTo(1e-3);
        assertThat(steps.getLast().loss()).isLessThan(steps.getFirst().loss() - 0.3);
        assertThat(steps.getLast().epoch()).isGreaterThan(7);
        List<String> lines = Runs.metrics(folder.resolve("fp16"));
        assertThat(lines.getFirst()).contains("\"loss_scale\":1.073741824E9", "\"skipped\":true");
        assertThat(lines.getLast()).contains("\"loss_scale\"", "\"grad_norm\"").doesNotContain("skipped");
    }

    /// Skipped steps and a window that has begun are part of what a checkpoint holds.
    @ParameterizedTest
    @CsvSource({"F32", "BF16"})
    void stoppedAndResumedIsTheSame(DType moments) throws Exception {
        String keys = ", \"initial_scale_power\": 26, \"loss_scale_window\": 4";
        Runs.train(job("whole", keys).maxSteps(22).optimizerStates(moments));
        Runs.trainUntil(job("stopped", keys).maxSteps(22).optimizerStates(moments), 17);
        Runs.train(job("stopped", keys).maxSteps(22).optimizerStates(moments).resume("latest"));
        Path whole = folder.resolve("whole");
        Path stopped = folder.resolve("stopped");
        assertThat(Runs.metrics(stopped)).isEqualTo(Runs.metrics(whole));
        assertThat(Runs.metrics(whole).subList(17, 22))
                .anyMatch(line -> line.contains("skipped"))
                .anyMatch(line -> !line.contains("skipped"));
        assertThat(Runs.files(stopped.resolve("model"))).isEqualTo(Runs.files(whole.resolve("model")));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "'initial_scale_power': 30, 'min_loss_scale': 1073741824, 'hysteresis': 1 | which is the smallest allowed",
                "'loss_scale': 1073741824 | which is static"
            })
    void stopsWhereTheScaleCannotBeLowered(String keys, String why) throws Exception {
        TrainingOptionsBuilder job = job("stop", ", " + keys.replace('\'', '"'));
        assertThatThrownBy(() -> Runs.train(job))
                .isInstanceOf(UserException.class)
                .hasMessageStartingWith("Step 1 was stopped, since its loss is 5.")
                .hasMessageContainingAll(
                        "at the loss scale 1073741824, " + why,
                        "the first value that is not finite is in tensor head.gradLogits of block head, first written"
                                + " by FORWARD block 3 microbatch 0 on rank 0, in sequence 0 of the batch (sample 0 of"
                                + " epoch 0)")
                .message()
                .endsWith(".")
                .doesNotContain("\n");
    }

    @Test
    void exportsInFp16() throws Exception {
        TrainingResult result = Runs.train(job("fp16", "").maxSteps(3));
        try (ModelWeights weights = ModelWeights.open(result.modelDirectory())) {
            assertThat(weights.tensor("model.embed_tokens.weight").dtype()).isEqualTo(DType.F16);
        }
        assertThat(Files.readString(result.modelDirectory().resolve("config.json")))
                .contains("float16");
        TrainingResult next = Runs.train(Runs.job(folder)
                .model(result.modelDirectory().toString())
                .output(folder.resolve("next"))
                .learningRate(1e-12)
                .maxSteps(1));
        assertThat(next.finalLoss()).isLessThan(5.6);
        StringBuilder generated = new StringBuilder();
        try (Generator generator = Generator.open(result.modelDirectory(), "cpu:1")) {
            generator.generate("the model ", 5, 0, 1, generated::append);
        }
        assertThat(generated).isNotEmpty();
    }

    /// Moments of either dtype go on in either.
    @ParameterizedTest
    @CsvSource({"F32, BF16", "BF16, F32", "BF16, BF16"})
    void checkpointsOfEitherMomentsResumeInEither(DType before, DType after) throws Exception {
        Runs.train(Runs.job(folder).output(folder.resolve("fp32")).maxSteps(12).learningRate(1e-3));
        TrainingOptionsBuilder first =
                Runs.job(folder).output(folder.resolve("run")).maxSteps(12).learningRate(1e-3);
        Runs.trainUntil(first.optimizerStates(before), 6);
        Path checkpoint = folder.resolve("run/checkpoints/step-6");
        try (ModelWeights states = ModelWeights.open(checkpoint, ModelState.OPTIMIZER)) {
            assertThat(states.tensor("model.norm.weight.moment1").dtype()).isEqualTo(before);
            assertThat(states.tensor("model.norm.weight.master").dtype()).isEqualTo(DType.F32);
        }
        TrainingOptionsBuilder second = Runs.job(folder)
                .output(folder.resolve("run"))
                .maxSteps(12)
                .learningRate(1e-3)
                .resume("latest");
        Runs.train(second.optimizerStates(after));
        List<Double> expected = Runs.losses(folder.resolve("fp32"));
        List<Double> losses = Runs.losses(folder.resolve("run"));
        assertThat(losses).hasSize(12);
        for (int i = 0; i < 12; i++) {
            assertThat(losses.get(i)).isCloseTo(expected.get(i), within(2e-3 * expected.get(i)));
        }
        assertThat(losses).isNotEqualTo(expected);
    }
}
