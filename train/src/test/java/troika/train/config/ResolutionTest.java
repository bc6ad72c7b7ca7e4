package troika.train.config;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.tensor.DType;
import troika.tensor.UserException;

class ResolutionTest {
    @TempDir
    Path folder = Path.of("");

    private static TrainingOptionsBuilder run() {
        return TrainingOptions.builder().model("quickstart").data(List.of("jdk"));
    }

    private TrainingOptionsBuilder with(String json) throws IOException {
        Path file = folder.resolve("ds.json");
        Files.writeString(file, json);
        return run().configFile(file);
    }

    private static void refused(TrainingOptionsBuilder builder, String... parts) {
        assertThatThrownBy(builder::build)
                .isInstanceOf(UserException.class)
                .message()
                .contains(parts)
                .endsWith(".")
                .doesNotContain("\n");
    }

    @Test
    void defaultsAreHuggingFaces() {
        TrainingOptions options = run().build();
        assertThat(options.learningRate()).isEqualTo(5e-5);
        assertThat(options.adamBeta1()).isEqualTo(0.9);
        assertThat(options.adamBeta2()).isEqualTo(0.999);
        assertThat(options.adamEpsilon()).isEqualTo(1e-8);
        assertThat(options.weightDecay()).isZero();
        assertThat(options.maxGradNorm()).isEqualTo(1);
        assertThat(options.numTrainEpochs()).isEqualTo(3);
        assertThat(options.lrSchedulerType()).isEqualTo(SchedulerType.LINEAR);
        assertThat(options.loggingSteps()).isEqualTo(10);
        assertThat(options.saveSteps()).isEqualTo(500);
        assertThat(options.seed()).isEqualTo(42);
        assertThat(options.dtype()).isEqualTo(DType.BF16);
        assertThat(options.saveDtype()).isEqualTo(DType.BF16);
        assertThat(options.tokenizer()).isEqualTo("byte");
        assertThat(options.batch()).isEqualTo(new BatchSizes(8, 8, 1, 1));
        assertThat(run().dtype(DType.F32).build().saveDtype()).isEqualTo(DType.F32);
    }

    /// A blank is a number that is not given.
    @ParameterizedTest
    @CsvSource({
        // train, micro, accumulation, ranks -> train, micro, accumulation
        "96, 4, , 3, 96, 4, 8",
        "96, , 8, 3, 96, 4, 8",
        " , 4, 8, 3, 96, 4, 8",
        "96, 4, 8, 3, 96, 4, 8",
        "16, , , 3, 16, 6, 1",
        "16, 4, , 3, 16, 3, 2",
        "16, , 2, 3, 16, 3, 2",
        "7, 100, , 3, 7, 3, 1",
        " , , 2, 3, 48, 8, 2",
        " , 5, , 2, 10, 5, 1",
        " , , , 3, 24, 8, 1",
    })
    void anyTwoNumbersGiveTheThird(
            Integer train,
            Integer micro,
            Integer accumulation,
            int ranks,
            int wantTrain,
            int wantMicro,
            int wantSteps) {
        TrainingOptionsBuilder builder = run().devices("cpu:" + ranks);
        if (train != null) {
            builder.trainBatchSize(train);
        }
        if (micro != null) {
            builder.microBatchSize(micro);
        }
        if (accumulation != null) {
            builder.gradientAccumulationSteps(accumulation);
        }
        TrainingOptions options = builder.build();
        assertThat(options.batch()).isEqualTo(new BatchSizes(wantTrain, wantMicro, wantSteps, ranks));
        assertThat(options.batch().microbatches()).isEqualTo(ranks * wantSteps);
    }

    @Test
    void contradictingBatchNumbersAreRefusedWithTheNumbers() throws IOException {
        refused(
                run().numGpus(3).trainBatchSize(16).microBatchSize(4).gradientAccumulationSteps(2),
                "--train-batch-size 16 contradicts --per-device-train-batch-size 4"
                        + " × --gradient-accumulation-steps 2 × 3 data-parallel ranks = 24");
        refused(run().devices("cpu:3").trainBatchSize(2), "2 is fewer sequences than the 3 microbatches");
        refused(run().microBatchSize(1 << 20).gradientAccumulationSteps(1 << 20), "more than Troika's limit");
        refused(run().devices("cpu:2").numGpus(3), "--num-gpus 3 contradicts --devices cpu:2");
        refused(
                with("{\"train_batch_size\": 12, \"gradient_accumulation_steps\": 4}")
                        .numGpus(3)
                        .microBatchSize(4)
                        .gradientAccumulationSteps(8),
                "ds.json: train_batch_size 12 contradicts",
                "= 96");
    }

    @Test
    void theArticlesFileGetsAllItsSentencesAtOnce() throws IOException {
        TrainingOptionsBuilder builder =
                with(DeepSpeedConfigTest.ARTICLE).numGpus(3).microBatchSize(4).gradientAccumulationSteps(8);
        assertThatThrownBy(builder::build)
                .isInstanceOf(UserException.class)
                .message()
                .satisfies(message -> assertThat(message.lines()).hasSize(6))
                .contains("12 contradicts --per-device-train-batch-size 4", "= 96", "offload_param.device is");
    }

    @Test
    void fileAndArgumentsMustAgree() throws IOException {
        String adam = "{\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 6e-5, \"weight_decay\": 0.01}}}";
        TrainingOptions options = with(adam).build();
        assertThat(options.learningRate()).isEqualTo(6e-5);
        assertThat(options.weightDecay()).isEqualTo(0.01);
        assertThat(with(adam).learningRate(6e-5).build()).isEqualTo(options);
        refused(with(adam).learningRate(5e-5), "--learning-rate is 5.0E-5, but optimizer.params.lr in", "is 6.0E-5");
        refused(with("{\"gradient_clipping\": 0.5}").maxGradNorm(1), "--max-grad-norm is 1, but gradient_clipping in");
        refused(with("{\"zero_optimization\": {\"stage\": 2}}").zeroStage(1), "--zero-stage is 1", "is 2");
        refused(with("{\"bf16\": {\"enabled\": true}}").dtype(DType.F32), "--dtype is fp32", "is bf16");
        refused(with("{\"train_batch_size\": 12}").trainBatchSize(16), "--train-batch-size is 16", "is 12");
        assertThat(with("{\"bf16\": {\"enabled\": false}}").build().dtype()).isEqualTo(DType.F32);
        assertThat(with("{\"bf16\": {\"enabled\": \"auto\"}}")
                        .dtype(DType.F32)
                        .build()
                        .dtype())
                .isEqualTo(DType.F32);
        assertThat(with("{\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": \"auto\"}}}")
                        .learningRate(3e-4)
                        .build()
                        .learningRate())
                .isEqualTo(3e-4);
    }

    @Test
    void theFp16SectionGivesTheLossScale() throws IOException {
        assertThat(run().build().lossScaling()).isEqualTo(LossScaling.NONE);
        LossScaling defaults = new LossScaling(true, 65536, 1000, 2, false, 1);
        assertThat(run().dtype(DType.F16).build().lossScaling()).isEqualTo(defaults);
        TrainingOptions options = with("{\"fp16\": {\"enabled\": true}}").build();
        assertThat(options.dtype()).isEqualTo(DType.F16);
        assertThat(options.saveDtype()).isEqualTo(DType.F16);
        assertThat(options.lossScaling()).isEqualTo(defaults);
        assertThat(with("{\"fp16\": {\"enabled\": true, \"auto_cast\": true, \"initial_scale_power\": 8,"
                                + " \"loss_scale_window\": 7, \"hysteresis\": 3, \"consecutive_hysteresis\": true,"
                                + " \"min_loss_scale\": 4}}")
                        .build()
                        .lossScaling())
                .isEqualTo(new LossScaling(true, 256, 7, 3, true, 4));
        LossScaling fixed = with("{\"fp16\": {\"enabled\": \"auto\", \"loss_scale\": 128}}")
                .dtype(DType.F16)
                .build()
                .lossScaling();
        assertThat(fixed.dynamic()).isFalse();
        assertThat(fixed.initialScale()).isEqualTo(128);
        assertThat(with("{\"fp16\": {\"enabled\": false}, \"bf16\": {\"enabled\": true}}")
                        .build()
                        .dtype())
                .isEqualTo(DType.BF16);
        assertThat(with("{\"bf16\": {\"enabled\": false}}")
                        .dtype(DType.F16)
                        .build()
                        .dtype())
                .isEqualTo(DType.F16);
        refused(
                with("{\"fp16\": {\"enabled\": true}, \"bf16\": {\"enabled\": true}}"),
                "fp16.enabled and bf16.enabled are both true");
        refused(with("{\"fp16\": {\"enabled\": true}}").dtype(DType.BF16), "--dtype is bf16", "is fp16");
        refused(with("{\"fp16\": {\"enabled\": false}}").dtype(DType.F16), "--dtype is fp16", "is false");
        refused(with("{\"fp16\": {\"enabled\": true, \"initial_scale_power\": 121}}"), "fp16.initial_scale_power");
        refused(with("{\"fp16\": {\"enabled\": true, \"min_loss_scale\": 0}}"), "fp16.min_loss_scale");
    }

    @Test
    void optimizerStatesAreFp32UnlessAskedFor() throws IOException {
        assertThat(run().build().optimizerStates()).isEqualTo(DType.F32);
        assertThat(run().optimizerStates(DType.BF16).build().optimizerStates()).isEqualTo(DType.BF16);
        String json = "{\"bf16\": {\"enabled\": true, \"bf16_optimizer_states\": true}}";
        assertThat(with(json).build().optimizerStates()).isEqualTo(DType.BF16);
        refused(with(json).optimizerStates(DType.F32), "--optimizer-states is fp32", "is bf16");
    }

    @Test
    void deepSpeedsSchedulersBecomeSchedules() throws IOException {
        TrainingOptions decay = with("""
                        {"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": 1e-6, "warmup_max_lr": 1e-3,
                         "warmup_num_steps": 10, "total_num_steps": 100, "warmup_type": "linear"}}}
                        """).build();
        assertThat(decay.schedule(7)).isEqualTo(new Schedule(SchedulerType.LINEAR, 1e-3, 1e-6, 1e-6, 10, false, 100));
        TrainingOptions cosine = with("{\"scheduler\": {\"type\": \"WarmupCosineLR\", \"params\":"
                        + " {\"total_num_steps\": \"auto\", \"warmup_num_steps\": 5, \"cos_min_ratio\": 0.5}}}")
                .learningRate(1)
                .build();
        assertThat(cosine.schedule(50)).isEqualTo(new Schedule(SchedulerType.COSINE, 1, 0, 0.5, 5, true, 50));
        TrainingOptionsBuilder contradiction =
                with("{\"scheduler\": {\"type\": \"WarmupLR\"}}").lrSchedulerType(SchedulerType.COSINE);
        refused(contradiction, "--lr-scheduler-type is cosine, but scheduler.type", "constant_with_warmup");
        refused(
                with("{\"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": 1}},"
                        + " \"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_max_lr\": 2}}}"),
                "optimizer.params.lr is 1 and scheduler.params.warmup_max_lr is 2");
    }

    @Test
    void valuesOutOfRangeAreNamed() {
        refused(TrainingOptions.builder().data(List.of("jdk")), "--model is missing");
        refused(TrainingOptions.builder().model("quickstart"), "--data is missing");
        refused(run().learningRate(-1), "--learning-rate must be above 0, and is -1");
        refused(run().learningRate(Double.NaN), "--learning-rate");
        refused(run().adamBeta2(1), "--adam-beta2 must be at least 0 and below 1, and is 1");
        refused(run().zeroStage(4), "--zero-stage must be from 0 to 3, and is 4");
        refused(run().sequenceLength(1), "--sequence-length");
        refused(run().maxSteps(-2), "--max-steps must be at least 0, and is -2");
        refused(run().devices("tpu:3"), "tpu:3");
        refused(run().devices("cpu:0"), "cpu:0");
        refused(run().devices("cpu:-1"), "cpu:-1");
        refused(run().dtype(DType.I32), "--dtype must be fp32, bf16 or fp16, and is int32");
        refused(run().optimizerStates(DType.F16), "--optimizer-states must be fp32 or bf16, and is fp16");
        refused(run().lrSchedulerType(SchedulerType.CONSTANT).warmupSteps(3), "constant_with_warmup");
        refused(run().minLearningRate(1), "smallest learning rate 1 is above");
        refused(run().microBatchSize(0), "--per-device-train-batch-size must be from 1");
    }

    /// In place of all that is said of batches but accumulation steps; a blank is not given.
    @ParameterizedTest
    @CsvSource({
        // micro, accumulation, ranks -> micro, accumulation
        "2, 1, 1, 6, 1",
        "2, , 1, 2, 3",
        "1, , 5, 2, 1",
        "4, , 2, 3, 1",
        "8, 2, 3, 1, 2",
        ", , 2, 3, 1",
    })
    void layoutsMayTakeTheSameBatch(
            @Nullable Integer micro, @Nullable Integer accumulation, int ranks, int largest, int steps)
            throws IOException {
        BatchSizes expected = new BatchSizes(6, largest, steps, ranks);
        TrainingOptionsBuilder arguments = run().devices("cpu:" + ranks);
        StringBuilder json = new StringBuilder("{\"train_batch_size\": 48");
        if (micro != null) {
            arguments.microBatchSize(micro);
            json.append(", \"train_micro_batch_size_per_gpu\": ").append(micro);
        }
        if (accumulation != null) {
            arguments.gradientAccumulationSteps(accumulation);
            json.append(", \"gradient_accumulation_steps\": ").append(accumulation);
        }
        assertThat(arguments.sameBatch(6).build().batch()).isEqualTo(expected);
        TrainingOptionsBuilder file = with(json + "}").devices("cpu:" + ranks);
        assertThat(file.batch()).isEqualTo(48);
        assertThat(file.sameBatch(6).build().batch()).isEqualTo(expected);
        assertThat(file.batch()).isEqualTo(6);
    }

    @Test
    void aModelFolderBringsItsTokenizer() throws IOException {
        refused(run().model(folder.toString()), "has no tokenizer.json");
        Files.writeString(folder.resolve("tokenizer.json"), "{}");
        assertThat(run().model(folder.toString()).build().tokenizer())
                .isEqualTo(folder.resolve("tokenizer.json").toString());
    }

    @Test
    void wordsAreReadAndNearestOnesProposed() {
        assertThat(SchedulerType.of("WarmupCosineLR")).isEqualTo(SchedulerType.COSINE);
        assertThat(SchedulerType.of("constant_with_warmup")).isEqualTo(SchedulerType.CONSTANT_WITH_WARMUP);
        assertThat(SaveStrategy.of("epoch")).isEqualTo(SaveStrategy.EPOCH);
        assertThat(Recompute.of("layer")).isEqualTo(Recompute.LAYER);
        assertThatThrownBy(() -> SchedulerType.of("cosin"))
                .isInstanceOf(UserException.class)
                .hasMessageEndingWith("and is \"cosin\": did you mean cosine?");
        assertThat(Nearest.distance("kitten", "sitting")).isEqualTo(3);
        assertThat(Nearest.distance("", "abc")).isEqualTo(3);
    }
}
