package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import troika.model.JsonFields;
import troika.model.ModelWeights;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.checkpoint.Checkpoints;
import troika.train.config.SaveStrategy;
import troika.train.config.SchedulerType;
import troika.train.config.TrainingOptionsBuilder;

/// What the options of a run do.
class OptionsTest {
    @TempDir
    Path folder = Path.of("");

    private Path output() {
        return folder.resolve("run");
    }

    private TrainingOptionsBuilder job() throws Exception {
        return Runs.job(folder).output(output());
    }

    private List<Long> saved() {
        return Checkpoints.list(output()).stream()
                .map(Checkpoints.Checkpoint::step)
                .toList();
    }

    @Test
    void savesBySteps() throws Exception {
        Runs.train(job().saveSteps(2));
        assertThat(saved()).containsExactly(2L, 4L, 6L);
    }

    @Test
    void keepsTheNewest() throws Exception {
        Runs.train(job().saveSteps(1).saveTotalLimit(2));
        assertThat(saved()).containsExactly(5L, 6L);
    }

    @Test
    void savesNothingButTheModel() throws Exception {
        Runs.train(job().saveStrategy(SaveStrategy.NO));
        assertThat(saved()).isEmpty();
        Checkpoints.verify(output().resolve("model"));
    }

    @Test
    void timesThreeStepsAndTellsWhatWasExpected() throws Exception {
        List<String> lines = new ArrayList<>();
        TrainingListener listener = new TrainingListener() {
            @Override
            public void onMessage(String line) {
                lines.add(line);
            }
        };
        Trainer.of(job().maxSteps(6)
                        .profileStep(3)
                        .devices(TestDevices.named(2))
                        .trainBatchSize(16)
                        .build())
                .listener(listener)
                .build()
                .train();
        assertThat(lines)
                .anySatisfy(
                        line -> assertThat(line)
                                .matches(
                                        "Steps 4 to 5, timed: [0-9.]+ ms a step; expected of this machine: [0-9.]+ ms \\([+-][0-9.]+ %\\)"));
        assertThat(lines).anySatisfy(line -> assertThat(line).startsWith("rank 1 "));
        assertThat(lines).anySatisfy(line -> assertThat(line).contains("FORWARD ", "UPDATE "));
        for (String file : List.of("timeline.json", "timeline-plan.json")) {
            assertThat(JsonFields.parse(file, Files.readAllBytes(output().resolve(file)))
                            .has("traceEvents"))
                    .isTrue();
        }
    }

    @ParameterizedTest
    @CsvSource({"5, give one from 1 to 4", "6, give one from 1 to 4", "7, give one from 1 to 4"})
    void stepsThatAreTimedMustBeSteps(long first, String advice) throws Exception {
        assertThatThrownBy(() -> Runs.train(job().profileStep(first)))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("--profile-step " + first)
                .hasMessageContaining(advice);
        assertThat(output()).doesNotExist();
        assertThatThrownBy(() -> Runs.train(job().maxSteps(2).profileStep(1)))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("give the run more steps");
    }

    /// 31 sequences in batches of 8 are 4 steps, the last of 7.
    @Test
    void epochs() throws Exception {
        TrainingResult result = Runs.train(job().maxSteps(0).numTrainEpochs(2.5).saveStrategy(SaveStrategy.EPOCH));
        assertThat(result.steps()).isEqualTo(10);
        assertThat(saved()).containsExactly(4L, 8L);
        assertThat(numbers("tokens")).containsExactly(256., 256., 256., 224., 256., 256., 256., 224., 256., 256.);
        assertThat(numbers("epoch").get(7)).isEqualTo(2);
        // The last steps' learning rate follows a cosine over all ten.
        assertThat(numbers("learning_rate").getFirst()).isCloseTo(3e-4, within(1e-5));
        assertThat(numbers("learning_rate").getLast()).isLessThan(1e-5);
    }

    private List<Double> numbers(String key) throws Exception {
        return Files.readAllLines(output().resolve("metrics.jsonl")).stream()
                .map(line -> JsonFields.parse("metrics.jsonl", line.getBytes(StandardCharsets.UTF_8)))
                .filter(line -> line.has(key))
                .map(line -> line.number(key, 0, 1e12))
                .toList();
    }

    @Test
    void savesInAnotherDtype() throws Exception {
        Runs.train(job().maxSteps(1).saveSteps(1).saveDtype(DType.BF16));
        for (Path saved : List.of(output().resolve("model"), Checkpoints.directory(output(), 1))) {
            try (ModelWeights weights = ModelWeights.open(saved)) {
                assertThat(weights.tensor("model.norm.weight").dtype()).isEqualTo(DType.BF16);
            }
            assertThat(Files.readString(saved.resolve("config.json"))).contains("\"bfloat16\"");
        }
        try (ModelWeights states = ModelWeights.open(Checkpoints.directory(output(), 1), "optimizer")) {
            assertThat(states.tensor("model.norm.weight.master").dtype()).isEqualTo(DType.F32);
        }
    }

    @Test
    void evaluatesBySteps() throws Exception {
        TrainingResult result =
                Runs.train(job().evalData(List.of("held-out")).evalSteps(2).saveStrategy(SaveStrategy.NO));
        List<Double> losses = numbers("eval_loss");
        assertThat(losses).hasSize(3).isSortedAccordingTo((a, b) -> Double.compare(b, a));
        assertThat(result.evaluationLoss()).isEqualTo(losses.getLast());
    }

    /// The held-out loss does not depend on the layout, nor on the batch.
    @Test
    void evaluationIsTheSameInAnyLayout() throws Exception {
        Path text = Runs.text(Files.createDirectories(folder.resolve("eval")), 5);
        double[] losses = new double[2];
        for (int i = 0; i < 2; i++) {
            losses[i] = Runs.train(job().output(folder.resolve("run" + i))
                            .maxSteps(1)
                            .devices(i == 0 ? "cpu:1" : "cpu:3")
                            .trainBatchSize(i == 0 ? 8 : 5)
                            .learningRate(1e-12)
                            .evalData(List.of(text.toString())))
                    .evaluationLoss();
        }
        assertThat(losses[1]).isCloseTo(losses[0], within(1e-5));
    }

    @Test
    void accumulationChangesNothing() throws Exception {
        Runs.train(job());
        List<Double> expected = Runs.losses(output());
        Runs.train(job().output(folder.resolve("accumulated"))
                .devices("cpu:2")
                .microBatchSize(1)
                .gradientAccumulationSteps(4));
        List<Double> losses = Runs.losses(folder.resolve("accumulated"));
        for (int i = 0; i < losses.size(); i++) {
            assertThat(losses.get(i)).isCloseTo(expected.get(i), within(1e-5 * expected.get(i)));
        }
    }

    /// What was trained is saved, loaded and evaluated to the same loss, tied or not.
    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void goesOnFromASavedModel(boolean tied) throws Exception {
        String model = Runs.model(folder, Runs.config(tied)).toString();
        String text = Runs.text(folder, 8).toString();
        TrainingOptionsBuilder first = job();
        Runs.model(folder, Runs.config(tied));
        TrainingResult result =
                Runs.train(first.model(model).maxSteps(8).learningRate(3e-3).evalData(List.of(text)));
        Path next = folder.resolve("next");
        TrainingOptionsBuilder second = job();
        TrainingResult fineTuned =
                Runs.train(second.model(result.modelDirectory().toString())
                        .output(next)
                        .maxSteps(1)
                        .learningRate(1e-12)
                        .evalData(List.of(text)));
        assertThat(fineTuned.evaluationLoss()).isCloseTo(result.evaluationLoss(), within(1e-6));
        assertThat(fineTuned.finalLoss()).isLessThan(Math.log(264) - 0.5);
        TrainingResult scratch = Runs.train(job().model(result.modelDirectory().toString())
                .fromScratch(true)
                .output(folder.resolve("scratch"))
                .maxSteps(1));
        assertThat(scratch.finalLoss()).isCloseTo(Math.log(264), within(0.1));
    }

    /// A short text, learned by heart, is what generation without chance goes on with.
    @ParameterizedTest
    @ValueSource(strings = {"F32", "BF16"})
    void generatesWhatItHasLearned(String dtype) throws Exception {
        String sentence = "Three ranks hold one model, and each of them has a third of the moments.";
        Path text = folder.resolve("sentence.txt");
        Files.writeString(text, sentence);
        TrainingResult result = Runs.train(job().data(List.of(text.toString()))
                .dtype(DType.valueOf(dtype))
                .sequenceLength(sentence.length() + 1)
                .trainBatchSize(1)
                .maxSteps(250)
                .learningRate(1e-2)
                .lrSchedulerType(SchedulerType.COSINE)
                .weightDecay(0)
                .saveStrategy(SaveStrategy.NO));
        assertThat(result.finalLoss()).isLessThan(0.1);
        StringBuilder generated = new StringBuilder();
        try (Generator generator = Generator.open(result.modelDirectory(), "cpu:1")) {
            generator.generate("Three ranks ", 100, 0, 1, generated::append);
        }
        // The end-of-sequence token ends it.
        assertThat(generated).hasToString(sentence.substring("Three ranks ".length()));
    }
}
