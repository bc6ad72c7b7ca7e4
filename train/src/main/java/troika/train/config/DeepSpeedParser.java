package troika.train.config;

import java.io.IOException;
import java.nio.charset.MalformedInputException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import tools.jackson.core.JacksonException;
import tools.jackson.core.StreamReadFeature;
import tools.jackson.databind.DeserializationFeature;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;
import troika.tensor.UserException;
import troika.train.config.DeepSpeedConfig.ActivationCheckpointing;
import troika.train.config.DeepSpeedConfig.Aio;
import troika.train.config.DeepSpeedConfig.Batch;
import troika.train.config.DeepSpeedConfig.Bf16;
import troika.train.config.DeepSpeedConfig.CommsLogger;
import troika.train.config.DeepSpeedConfig.FlopsProfiler;
import troika.train.config.DeepSpeedConfig.Fp16;
import troika.train.config.DeepSpeedConfig.Monitor;
import troika.train.config.DeepSpeedConfig.OffloadOptimizer;
import troika.train.config.DeepSpeedConfig.OffloadParam;
import troika.train.config.DeepSpeedConfig.Optimizer;
import troika.train.config.DeepSpeedConfig.Pipeline;
import troika.train.config.DeepSpeedConfig.Scheduler;
import troika.train.config.DeepSpeedConfig.ZeroOptimization;

/// Reads DeepSpeed's JSON with DeepSpeed's defaults.
final class DeepSpeedParser {
    private static final long LARGEST_FILE = 1 << 20;
    private static final List<String> COMMUNICATION_DTYPES = List.of("fp32", "fp16", "bf16", "bfp16");
    private static final List<String> OFFLOAD_DEVICES = List.of("none", "cpu", "nvme");

    private DeepSpeedParser() {}

    static DeepSpeedConfig read(Path file) {
        try {
            if (!Files.isRegularFile(file)) {
                throw new UserException("The configuration file " + file
                        + " does not exist: give the path of a DeepSpeed JSON file after --config.");
            }
            if (Files.size(file) > LARGEST_FILE) {
                throw new UserException("The configuration file " + file
                        + " is larger than 1 MiB: give a DeepSpeed JSON file after --config.");
            }
            return parse(file.toString(), Files.readString(file));
        } catch (MalformedInputException e) {
            throw new UserException(file + " is not text in UTF-8: save the configuration as UTF-8.", e);
        } catch (IOException e) {
            throw new UserException(
                    "The configuration file " + file + " cannot be read (" + e.getMessage()
                            + "): check its permissions.",
                    e);
        }
    }

    static DeepSpeedConfig parse(String name, String json) {
        JsonSection root = JsonSection.root(name, tree(name, json));
        DeepSpeedConfig config = new DeepSpeedConfig(
                name,
                new Batch(
                        root.autoInteger("train_batch_size", 1),
                        root.autoInteger("train_micro_batch_size_per_gpu", 1),
                        root.autoInteger("gradient_accumulation_steps", 1)),
                root.autoNumber("gradient_clipping", 0),
                root.optionalInteger("steps_per_print", 1),
                root.bool("wall_clock_breakdown", false),
                root.bool("dump_state", false),
                root.word("communication_data_type", COMMUNICATION_DTYPES),
                root.bool("prescale_gradients", false),
                root.section("data_types", DeepSpeedParser::gradAccumDtype),
                root.optionalSection("optimizer", DeepSpeedParser::optimizer),
                root.optionalSection("scheduler", DeepSpeedParser::scheduler),
                root.optionalSection("fp16", DeepSpeedParser::fp16),
                root.optionalSection("bf16", DeepSpeedParser::bf16),
                root.optionalSection("zero_optimization", DeepSpeedParser::zero),
                aio(root),
                root.section("activation_checkpointing", DeepSpeedParser::activationCheckpointing),
                root.section("pipeline", DeepSpeedParser::pipeline),
                root.section("tensor_parallel", DeepSpeedParser::autotpSize),
                root.section("flops_profiler", DeepSpeedParser::flopsProfiler),
                root.section("comms_logger", DeepSpeedParser::commsLogger),
                root.section("tensorboard", DeepSpeedParser::monitor),
                root.section("csv_monitor", DeepSpeedParser::monitor));
        // HF's examples carry it; it asks for no behaviour, only for consent.
        root.bool("zero_allow_untested_optimizer", false);
        root.done();
        return config;
    }

    private static JsonNode tree(String name, String json) {
        try {
            JsonNode node = Holder.MAPPER.readTree(json);
            if (node == null || node.isMissingNode()) {
                throw new UserException(name + " is empty: write at least { }.");
            }
            return node;
        } catch (JacksonException e) {
            String what = e.getOriginalMessage();
            String line = (what == null ? "malformed" : what).replaceAll("\\s+", " ");
            var at = e.getLocation();
            throw new UserException(
                    name + " is not valid JSON"
                            + (at == null ? "" : " (line " + at.getLineNr() + ", column " + at.getColumnNr() + ")")
                            + ": "
                            + line.substring(0, Math.min(line.length(), 200)) + ".",
                    e);
        }
    }

    private static @Nullable String gradAccumDtype(JsonSection section) {
        String dtype = section.optionalString("grad_accum_dtype");
        section.done();
        return dtype;
    }

    private static Optimizer optimizer(JsonSection section) {
        String type = section.requiredString("type", "\"AdamW\"");
        boolean adam = type.equalsIgnoreCase("Adam") || type.equalsIgnoreCase("AdamW");
        Optimizer optimizer = section.section("params", params -> {
            // Other optimizers have parameters of their own; DeepSpeedSupport refuses them by their type.
            if (!adam) {
                params.takeAll();
            }
            double[] betas = params.autoPair("betas");
            Optimizer read = new Optimizer(
                    type,
                    params.autoNumber("lr", 0),
                    betas == null ? null : (Double) betas[0],
                    betas == null ? null : (Double) betas[1],
                    params.autoNumber("eps", 0),
                    params.autoNumber("weight_decay", 0),
                    params.bool("adam_w_mode", true),
                    params.bool("torch_adam", false),
                    params.bool("bias_correction", true),
                    params.bool("amsgrad", false));
            params.done();
            return read;
        });
        section.bool("legacy_fusion", false);
        section.done();
        return optimizer;
    }

    private static Scheduler scheduler(JsonSection section) {
        String type = section.requiredString("type", "\"WarmupLR\"");
        boolean cosine = type.equals("WarmupCosineLR");
        Scheduler scheduler = section.section("params", params -> {
            if (SchedulerType.ofDeepSpeed(type) == null) {
                params.takeAll();
            }
            Double minLr = cosine ? null : params.autoNumber("warmup_min_lr", 0);
            Double maxLr = cosine ? null : params.autoNumber("warmup_max_lr", 0);
            String warmupType = params.word("warmup_type", List.of("log", "linear"));
            Scheduler read = new Scheduler(
                    type,
                    minLr,
                    maxLr,
                    params.autoInteger("warmup_num_steps", 0),
                    type.equals("WarmupLR") ? null : params.autoInteger("total_num_steps", 1),
                    warmupType == null ? "log" : warmupType,
                    cosine ? params.number("warmup_min_ratio", 0, 0) : 0,
                    cosine ? params.autoNumber("cos_min_ratio", 0) : null);
            params.done();
            return read;
        });
        section.done();
        return scheduler;
    }

    private static Fp16 fp16(JsonSection section) {
        Fp16 fp16 = new Fp16(
                section.autoBool("enabled"),
                section.bool("auto_cast", false),
                section.number("loss_scale", 0, 0),
                section.integer("initial_scale_power", 16, 0),
                section.integer("loss_scale_window", 1000, 1),
                section.integer("hysteresis", 2, 1),
                section.bool("consecutive_hysteresis", false),
                section.number("min_loss_scale", 1, 0),
                section.bool("fp16_master_weights_and_grads", false));
        section.done();
        return fp16;
    }

    private static Bf16 bf16(JsonSection section) {
        Bf16 bf16 = new Bf16(
                section.autoBool("enabled"),
                section.bool("bf16_master_weights_and_grads", false),
                section.bool("bf16_optimizer_states", false));
        section.done();
        return bf16;
    }

    private static ZeroOptimization zero(JsonSection section) {
        long stage = section.integer("stage", 0, 0);
        if (stage > 3) {
            throw new UserException(section.label("stage") + " must be 0, 1, 2 or 3, and is " + stage + ".");
        }
        ZeroOptimization zero = new ZeroOptimization(
                stage,
                section.autoInteger("reduce_bucket_size", 1),
                section.autoInteger("allgather_bucket_size", 1),
                section.autoBool("overlap_comm"),
                section.bool("contiguous_gradients", true),
                section.bool("reduce_scatter", true),
                section.bool("round_robin_gradients", false),
                section.integer("sub_group_size", 1_000_000_000, 1),
                section.autoInteger("stage3_prefetch_bucket_size", 0),
                section.autoInteger("stage3_param_persistence_threshold", 0),
                section.integer("stage3_max_live_parameters", 1_000_000_000, 0),
                section.integer("stage3_max_reuse_distance", 1_000_000_000, 0),
                section.bool("stage3_gather_16bit_weights_on_model_save", false),
                section.bool("zero_quantized_weights", false),
                section.bool("zero_quantized_gradients", false),
                section.integer("zero_hpz_partition_size", 1, 0),
                section.section("offload_param", DeepSpeedParser::offloadParam),
                section.section("offload_optimizer", DeepSpeedParser::offloadOptimizer));
        section.done();
        return zero;
    }

    private static OffloadParam offloadParam(JsonSection section) {
        String device = section.word("device", OFFLOAD_DEVICES);
        OffloadParam offload = new OffloadParam(
                device == null ? "none" : device,
                section.optionalString("nvme_path"),
                section.bool("pin_memory", false),
                section.integer("buffer_count", 5, 0),
                section.integer("buffer_size", 100_000_000, 0),
                section.integer("max_in_cpu", 1_000_000_000, 0));
        section.done();
        return offload;
    }

    private static OffloadOptimizer offloadOptimizer(JsonSection section) {
        String device = section.word("device", OFFLOAD_DEVICES);
        double ratio = section.number("ratio", 1, 0);
        if (ratio > 1) {
            throw new UserException(section.label("ratio") + " must be from 0 to 1, and is " + ratio + ".");
        }
        OffloadOptimizer offload = new OffloadOptimizer(
                device == null ? "none" : device,
                section.optionalString("nvme_path"),
                section.bool("pin_memory", false),
                section.integer("buffer_count", 4, 0),
                section.bool("pipeline_read", false),
                section.bool("pipeline_write", false),
                ratio);
        section.done();
        return offload;
    }

    private static Aio aio(JsonSection root) {
        Aio given = root.optionalSection("aio", section -> aioSection(true, section));
        return given != null ? given : root.section("aio", section -> aioSection(false, section));
    }

    private static Aio aioSection(boolean given, JsonSection section) {
        Aio aio = new Aio(
                given,
                section.integer("block_size", 1 << 20, 1),
                section.integer("queue_depth", 8, 1),
                // Older files call it thread_count.
                section.integer("intra_op_parallelism", section.integer("thread_count", 1, 1), 1),
                section.bool("single_submit", false),
                section.bool("overlap_events", true));
        section.done();
        return aio;
    }

    private static ActivationCheckpointing activationCheckpointing(JsonSection section) {
        ActivationCheckpointing checkpointing = new ActivationCheckpointing(
                section.bool("partition_activations", false),
                section.bool("cpu_checkpointing", false),
                section.bool("contiguous_memory_optimization", false),
                section.optionalInteger("number_checkpoints", 0),
                section.bool("synchronize_checkpoint_boundary", false),
                section.bool("profile", false));
        section.done();
        return checkpointing;
    }

    private static Pipeline pipeline(JsonSection section) {
        Pipeline pipeline = new Pipeline(
                section.autoInteger("stages", 0),
                section.string("partition", "best").toLowerCase(Locale.ROOT),
                section.integer("activation_checkpoint_interval", 0, 0));
        section.done();
        return pipeline;
    }

    private static long autotpSize(JsonSection section) {
        long size = section.integer("autotp_size", 0, 0);
        section.done();
        return size;
    }

    private static FlopsProfiler flopsProfiler(JsonSection section) {
        FlopsProfiler profiler = new FlopsProfiler(
                section.bool("enabled", false),
                section.integer("profile_step", 1, 0),
                section.integer("module_depth", -1, -1),
                section.integer("top_modules", 1, 0),
                section.bool("detailed", true),
                section.optionalString("output_file"));
        section.done();
        return profiler;
    }

    private static CommsLogger commsLogger(JsonSection section) {
        CommsLogger logger = new CommsLogger(
                section.bool("enabled", false),
                section.bool("verbose", false),
                section.bool("prof_all", true),
                section.bool("debug", false),
                section.strings("prof_ops"));
        section.done();
        return logger;
    }

    private static Monitor monitor(JsonSection section) {
        Monitor monitor = new Monitor(
                section.bool("enabled", false),
                section.string("output_path", ""),
                section.string("job_name", "DeepSpeedJobName"));
        section.done();
        return monitor;
    }

    /// Built on first use: a run without a file never pays for it.
    private static final class Holder {
        static final JsonMapper MAPPER = JsonMapper.builder()
                .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                .build();
    }
}
