package troika.train.config;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.train.config.DeepSpeedConfig.ActivationCheckpointing;
import troika.train.config.DeepSpeedConfig.Optimizer;
import troika.train.config.DeepSpeedConfig.ZeroOptimization;

/// Says which of a file's settings this build cannot honour. Keys that only tune what DeepSpeed does inside
/// change no result and are accepted with any value: bucket sizes of reductions and gathers (a block's
/// gradients leave together), contiguous gradients (they are), sub-groups, and below which size and for how long
/// ZeRO-3 keeps a parameter (all of a block's are gathered and released together).
public final class DeepSpeedSupport {
    private final String file;
    private final List<String> sentences = new ArrayList<>();

    private DeepSpeedSupport(String file) {
        this.file = file;
    }

    /// One sentence for each setting that this build cannot honour: its key path, its value, and what to
    /// do.
    public static List<String> unsupported(DeepSpeedConfig config) {
        DeepSpeedSupport support = new DeepSpeedSupport(config.file());
        support.optimizer(config.optimizer());
        support.precision(config);
        support.zero(config.zeroOptimization());
        support.activations(config.activationCheckpointing());
        support.layout(config);
        support.rest(config);
        return List.copyOf(support.sentences);
    }

    private void optimizer(@Nullable Optimizer optimizer) {
        if (optimizer == null) {
            return;
        }
        if (!optimizer.isAdam()) {
            refuse("optimizer.type", quoted(optimizer.type()), "use AdamW or Adam");
            return;
        }
        refuseIf(optimizer.amsgrad(), "optimizer.params.amsgrad", "remove it");
        refuseIf(!optimizer.biasCorrection(), "optimizer.params.bias_correction", false, "remove it");
        boolean plainAdam = optimizer.type().equalsIgnoreCase("Adam") && !optimizer.adamWMode();
        refuseIf(plainAdam, "optimizer.params.adam_w_mode", false, "remove it, so that weight decay is AdamW's");
    }

    private void precision(DeepSpeedConfig config) {
        var scheduler = config.scheduler();
        if (scheduler != null && SchedulerType.ofDeepSpeed(scheduler.type()) == null) {
            refuse("scheduler.type", quoted(scheduler.type()), "use WarmupLR, WarmupDecayLR or WarmupCosineLR");
        }
        var fp16 = config.fp16();
        if (fp16 != null) {
            refuseIf(
                    fp16.fp16MasterWeightsAndGrads(),
                    "fp16.fp16_master_weights_and_grads",
                    "set it to false: master weights and gradients are fp32");
        }
        var bf16 = config.bf16();
        if (bf16 != null) {
            refuseIf(
                    bf16.bf16MasterWeightsAndGrads(),
                    "bf16.bf16_master_weights_and_grads",
                    "set it to false: master weights are fp32");
        }
    }

    private void zero(@Nullable ZeroOptimization zero) {
        if (zero == null) {
            return;
        }
        String path = "zero_optimization.";
        if (!zero.offloadParam().device().equals("none")) {
            refuse(path + "offload_param.device", quoted(zero.offloadParam().device()), "set it to \"none\"");
        }
        if (!zero.offloadOptimizer().device().equals("none")) {
            refuse(
                    path + "offload_optimizer.device",
                    quoted(zero.offloadOptimizer().device()),
                    "set it to \"none\"");
        }
        refuseIf(zero.roundRobinGradients(), path + "round_robin_gradients", "set it to false");
        refuseIf(zero.zeroQuantizedWeights(), path + "zero_quantized_weights", "set it to false");
        refuseIf(zero.zeroQuantizedGradients(), path + "zero_quantized_gradients", "set it to false");
        if (zero.zeroHpzPartitionSize() > 1) {
            refuse(path + "zero_hpz_partition_size", zero.zeroHpzPartitionSize(), "set it to 1");
        }
    }

    private void activations(ActivationCheckpointing checkpointing) {
        String path = "activation_checkpointing.";
        String instead = "set it to false; --recompute layer saves memory instead";
        refuseIf(checkpointing.partitionActivations(), path + "partition_activations", instead);
        refuseIf(checkpointing.contiguousMemoryOptimization(), path + "contiguous_memory_optimization", instead);
        refuseIf(checkpointing.cpuCheckpointing(), path + "cpu_checkpointing", instead);
        refuseIf(
                checkpointing.synchronizeCheckpointBoundary(),
                path + "synchronize_checkpoint_boundary",
                "set it to false");
        refuseIf(checkpointing.profile(), path + "profile", "set it to false");
        if (checkpointing.numberCheckpoints() != null) {
            refuse(path + "number_checkpoints", checkpointing.numberCheckpoints(), "remove it");
        }
    }

    private void layout(DeepSpeedConfig config) {
        var pipeline = config.pipeline();
        if (!pipeline.partition().equals("best")) {
            refuse(
                    "pipeline.partition",
                    quoted(pipeline.partition()),
                    "set it to \"best\"; --layout and --shares say otherwise who holds how much");
        }
        if (pipeline.activationCheckpointInterval() > 0) {
            refuse(
                    "pipeline.activation_checkpoint_interval",
                    pipeline.activationCheckpointInterval(),
                    "set it to 0; --recompute layer saves memory instead");
        }
    }

    private void rest(DeepSpeedConfig config) {
        refuseIf(config.prescaleGradients(), "prescale_gradients", "set it to false");
        String accumulation = config.gradAccumDtype();
        if (accumulation != null && !accumulation.equals("fp32")) {
            refuse("data_types.grad_accum_dtype", quoted(accumulation), "set it to \"fp32\"");
        }
        refuseIf(config.wallClockBreakdown(), "wall_clock_breakdown", "set it to false");
        refuseIf(config.dumpState(), "dump_state", "set it to false; run.json holds the configuration as resolved");
        if (config.aio().given()) {
            refuse("aio", "present", "remove the section: nothing is offloaded to NVMe");
        }
        refuseIf(config.flopsProfiler().enabled(), "flops_profiler.enabled", "set it to false");
        refuseIf(config.commsLogger().enabled(), "comms_logger.enabled", "set it to false");
        String metrics = "set it to false; metrics.jsonl in the output folder holds the same figures";
        refuseIf(config.tensorboard().enabled(), "tensorboard.enabled", metrics);
        refuseIf(config.csvMonitor().enabled(), "csv_monitor.enabled", metrics);
    }

    private void refuseIf(boolean set, String path, String remedy) {
        refuseIf(set, path, true, remedy);
    }

    private void refuseIf(boolean set, String path, boolean value, String remedy) {
        if (set) {
            refuse(path, value, remedy);
        }
    }

    private void refuse(String path, Object value, String remedy) {
        sentences.add(file + ": " + path + " is " + value + ", which this build cannot do yet: " + remedy + ".");
    }

    private static String quoted(String word) {
        return "\"" + word + "\"";
    }
}
