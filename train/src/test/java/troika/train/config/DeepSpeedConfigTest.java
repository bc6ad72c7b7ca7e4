package troika.train.config;

import static java.util.Objects.requireNonNull;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import troika.tensor.UserException;

class DeepSpeedConfigTest {
    /// The configuration of the article that the project answers to.
    static final String ARTICLE = """
            {"train_batch_size": 12, "gradient_accumulation_steps": 4,
             "optimizer": {"type": "AdamW", "params": {"lr": 6e-5, "weight_decay": 0.01}},
             "fp16": {"enabled": true, "loss_scale_window": 1000, "initial_scale_power": 16},
             "zero_optimization": {"stage": 3,
               "offload_optimizer": {"device": "cpu", "pin_memory": true},
               "offload_param": {"device": "cpu"},
               "contiguous_gradients": true, "reduce_bucket_size": 5e8},
             "activation_checkpointing": {"partition_activations": true,
               "contiguous_memory_optimization": true, "cpu_checkpointing": true}}
            """;

    @Test
    void readsTheArticlesFileAsWritten() {
        DeepSpeedConfig config = DeepSpeedConfig.parse("ds.json", ARTICLE);
        assertThat(config.batch()).isEqualTo(new DeepSpeedConfig.Batch(12L, null, 4L));
        assertThat(config.optimizer())
                .isEqualTo(
                        new DeepSpeedConfig.Optimizer("AdamW", 6e-5, null, null, null, 0.01, true, false, true, false));
        var zero = requireNonNull(config.zeroOptimization());
        assertThat(zero.stage()).isEqualTo(3);
        assertThat(zero.reduceBucketSize()).isEqualTo(500_000_000L);
        assertThat(zero.offloadOptimizer().pinMemory()).isTrue();
        assertThat(zero.offloadParam().device()).isEqualTo("cpu");
        assertThat(requireNonNull(config.fp16()).hysteresis()).isEqualTo(2);
        assertThat(config.activationCheckpointing().cpuCheckpointing()).isTrue();
    }

    @Test
    void refusesEachThingOfTheArticlesFileThatThisBuildLacks() {
        assertThat(DeepSpeedSupport.unsupported(DeepSpeedConfig.parse("ds.json", ARTICLE)))
                .hasSize(5)
                .allMatch(sentence -> sentence.startsWith("ds.json: ") && sentence.endsWith("."))
                .anyMatch(sentence -> sentence.contains("zero_optimization.offload_param.device is \"cpu\""))
                .anyMatch(sentence -> sentence.contains("zero_optimization.offload_optimizer.device is \"cpu\""))
                .anyMatch(sentence -> sentence.contains("activation_checkpointing.partition_activations is true"))
                .anyMatch(sentence -> sentence.contains("contiguous_memory_optimization is true"))
                .anyMatch(sentence -> sentence.contains("cpu_checkpointing is true"));
    }

    @Test
    void anEmptyFileHoldsDeepSpeedsDefaultsAndAsksForNothing() {
        DeepSpeedConfig config = DeepSpeedConfig.parse("ds.json", "{}");
        assertThat(config.aio()).isEqualTo(new DeepSpeedConfig.Aio(false, 1 << 20, 8, 1, false, true));
        assertThat(config.pipeline()).isEqualTo(new DeepSpeedConfig.Pipeline(null, "best", 0));
        assertThat(config.flopsProfiler()).isEqualTo(new DeepSpeedConfig.FlopsProfiler(false, 1, -1, 1, true, null));
        assertThat(DeepSpeedSupport.unsupported(config)).isEmpty();
        DeepSpeedConfig zero = DeepSpeedConfig.parse(
                "ds.json", "{\"zero_optimization\": {\"offload_param\": {}, \"offload_optimizer\": {}}}");
        var section = requireNonNull(zero.zeroOptimization());
        assertThat(section.stage()).isZero();
        assertThat(section.contiguousGradients()).isTrue();
        assertThat(section.subGroupSize()).isEqualTo(1_000_000_000);
        assertThat(section.offloadParam())
                .isEqualTo(new DeepSpeedConfig.OffloadParam("none", null, false, 5, 100_000_000, 1_000_000_000));
        assertThat(section.offloadOptimizer())
                .isEqualTo(new DeepSpeedConfig.OffloadOptimizer("none", null, false, 4, false, false, 1.0));
    }

    @Test
    void autoMeansTheTrainersArgument() {
        DeepSpeedConfig config = DeepSpeedConfig.parse("ds.json", """
                {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
                 "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
                 "optimizer": {"type": "AdamW",
                   "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
                 "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto",
                   "warmup_num_steps": "auto", "total_num_steps": "auto"}},
                 "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"},
                 "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "allgather_bucket_size": 2e8,
                   "stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto",
                   "overlap_comm": true},
                 "steps_per_print": 2000, "wall_clock_breakdown": false}
                """);
        assertThat(config.batch()).isEqualTo(new DeepSpeedConfig.Batch(null, null, null));
        assertThat(config.gradientClipping()).isNull();
        assertThat(requireNonNull(config.optimizer()).lr()).isNull();
        assertThat(requireNonNull(config.scheduler()).totalNumSteps()).isNull();
        assertThat(requireNonNull(config.bf16()).enabled()).isNull();
        assertThat(requireNonNull(config.zeroOptimization()).allgatherBucketSize())
                .isEqualTo(200_000_000L);
        assertThat(DeepSpeedSupport.unsupported(config)).isEmpty();
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "{\"train_batch_size\": \"twelve\"} | ds.json: train_batch_size must be a whole number of at least 1 or"
                        + " \"auto\", and is \"twelve\".",
                "{\"train_batch_size\": 1.5} | ds.json: train_batch_size must be a whole number of at least 1 or"
                        + " \"auto\", and is 1.5.",
                "{\"train_batch_size\": 0} | ds.json: train_batch_size must be a whole number of at least 1 or \"auto\","
                        + " and is 0.",
                "{\"fp16\": {\"enabled\": 1}} | ds.json: fp16.enabled must be true, false or \"auto\", and is 1.",
                "{\"fp16\": true} | ds.json: fp16 must be an object, and is true.",
                "{\"zero_optimization\": {\"stage\": 4}} | ds.json: zero_optimization.stage must be 0, 1, 2 or 3, and"
                        + " is 4.",
                "{\"zero_optimization\": {\"sub_group_size\": 1e999}} | ds.json: zero_optimization.sub_group_size must"
                        + " be a whole number of at least 1, and is",
                "{\"zero_optimization\": {\"ofload_param\": {}}} | ds.json: unknown key \"ofload_param\" in"
                        + " zero_optimization: did you mean \"offload_param\"?",
                "{\"train_batchsize\": 3} | ds.json: unknown key \"train_batchsize\": did you mean"
                        + " \"train_batch_size\"?",
                "{\"optimizer\": {}} | ds.json: optimizer lacks \"type\": add it, for example \"AdamW\".",
                "{\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"betas\": [0.9]}}} | ds.json:"
                        + " optimizer.params.betas must be a list of two numbers or \"auto\", and is a list.",
                "{\"zero_optimization\": {\"offload_param\": {\"device\": \"gpu\"}}} | ds.json:"
                        + " zero_optimization.offload_param.device must be one of none, cpu, nvme, and is \"gpu\".",
                "{\"communication_data_type\": \"int8\"} | ds.json: communication_data_type must be one of fp32, fp16,"
                        + " bf16, bfp16, and is \"int8\".",
                "[] | ds.json must hold one JSON object, and holds a list: write the keys in { }.",
            })
    void wrongValuesAreNamedWithFileAndPath(String json, String message) {
        assertThatThrownBy(() -> DeepSpeedConfig.parse("ds.json", json))
                .isInstanceOf(UserException.class)
                .hasMessageStartingWith(message);
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "",
                "{",
                "{\"fp16\": {\"enabled\": true, \"enabled\": false}}",
                "{} {}",
                "{'a': 1}",
                "{\"a\": NaN}",
                "{\"aio\": 01}",
                "{\"aio\":\n [[[}",
                "nul"
            })
    void malformedFilesAreOneSentence(String json) {
        assertThatThrownBy(() -> DeepSpeedConfig.parse("ds.json", json))
                .isInstanceOf(UserException.class)
                .hasMessageStartingWith("ds.json is ")
                .hasMessageEndingWith(".")
                .message()
                .doesNotContain("\n");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "{\"optimizer\": {\"type\": \"Lamb\", \"params\": {\"max_coeff\": 1}}} | optimizer.type is \"Lamb\"",
                "{\"optimizer\": {\"type\": \"Adam\", \"params\": {\"adam_w_mode\": false}}} |"
                        + " optimizer.params.adam_w_mode is false",
                "{\"optimizer\": {\"type\": \"Adam\", \"params\": {\"amsgrad\": true}}} | optimizer.params.amsgrad is",
                "{\"scheduler\": {\"type\": \"OneCycle\", \"params\": {\"cycle_min_lr\": 1}}} | scheduler.type is"
                        + " \"OneCycle\"",
                "{\"bf16\": {\"bf16_master_weights_and_grads\": true}} | bf16.bf16_master_weights_and_grads is true",
                "{\"fp16\": {\"fp16_master_weights_and_grads\": true}} | fp16.fp16_master_weights_and_grads is true",
                "{\"zero_optimization\": {\"zero_quantized_weights\": true}} | zero_quantized_weights is true",
                "{\"zero_optimization\": {\"zero_quantized_gradients\": true}} | zero_quantized_gradients is true",
                "{\"zero_optimization\": {\"zero_hpz_partition_size\": 3}} | zero_hpz_partition_size is 3",
                "{\"zero_optimization\": {\"round_robin_gradients\": true}} | round_robin_gradients is true",
                "{\"zero_optimization\": {\"offload_param\": {\"device\": \"nvme\"}}} | offload_param.device is \"nvme\"",
                "{\"prescale_gradients\": true} | prescale_gradients is true",
                "{\"data_types\": {\"grad_accum_dtype\": \"bf16\"}} | data_types.grad_accum_dtype is \"bf16\"",
                "{\"wall_clock_breakdown\": true} | wall_clock_breakdown is true",
                "{\"dump_state\": true} | dump_state is true",
                "{\"aio\": {\"block_size\": 4096}} | aio is present",
                "{\"pipeline\": {\"activation_checkpoint_interval\": 1}} | pipeline.activation_checkpoint_interval is 1",
                "{\"activation_checkpointing\": {\"number_checkpoints\": 4}} | number_checkpoints is 4",
                "{\"activation_checkpointing\": {\"profile\": true}} | activation_checkpointing.profile is true",
                "{\"flops_profiler\": {\"enabled\": true}} | flops_profiler.enabled is true",
                "{\"comms_logger\": {\"enabled\": true, \"prof_ops\": [\"all_reduce\"]}} | comms_logger.enabled is true",
                "{\"tensorboard\": {\"enabled\": true}} | tensorboard.enabled is true",
                "{\"csv_monitor\": {\"enabled\": true}} | csv_monitor.enabled is true",
            })
    void whatThisBuildLacksGetsOneSentence(String json, String part) {
        assertThat(DeepSpeedSupport.unsupported(DeepSpeedConfig.parse("ds.json", json)))
                .singleElement()
                .asString()
                .startsWith("ds.json: ")
                .contains(part)
                .contains("which this build cannot do yet: ");
    }

    @Test
    void readsAFileAndNamesAMissingOne(@TempDir Path folder) throws Exception {
        Path file = folder.resolve("ds.json");
        Files.writeString(file, "{\"train_batch_size\": 6}");
        assertThat(DeepSpeedConfig.read(file).batch().trainBatchSize()).isEqualTo(6L);
        assertThatThrownBy(() -> DeepSpeedConfig.read(folder.resolve("none.json")))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("none.json does not exist");
        Files.write(file, new byte[] {'{', (byte) 0xff, '}'});
        assertThatThrownBy(() -> DeepSpeedConfig.read(file))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("not text in UTF-8");
    }
}
