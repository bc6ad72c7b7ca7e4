package troika.train.config;

import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// A DeepSpeed configuration file as typed values. Components are named after the file's keys and hold
/// DeepSpeed's default where the file lacks the key. A component that may be null says: the trainer's
/// argument decides, because the key is absent or `"auto"`. [DeepSpeedSupport#unsupported] names what this
/// build cannot honour.
///
/// @param file the file's name, for messages
public record DeepSpeedConfig(
        String file,
        Batch batch,
        @Nullable Double gradientClipping,
        @Nullable Long stepsPerPrint,
        boolean wallClockBreakdown,
        boolean dumpState,
        @Nullable String communicationDataType,
        boolean prescaleGradients,
        @Nullable String gradAccumDtype,
        @Nullable Optimizer optimizer,
        @Nullable Scheduler scheduler,
        @Nullable Fp16 fp16,
        @Nullable Bf16 bf16,
        @Nullable ZeroOptimization zeroOptimization,
        Aio aio,
        ActivationCheckpointing activationCheckpointing,
        Pipeline pipeline,
        long autotpSize,
        FlopsProfiler flopsProfiler,
        CommsLogger commsLogger,
        Monitor tensorboard,
        Monitor csvMonitor) {

    /// The numbers of the batch equation, in sequences and steps.
    public record Batch(
            @Nullable Long trainBatchSize,
            @Nullable Long trainMicroBatchSizePerGpu,
            @Nullable Long gradientAccumulationSteps) {}

    /// The optimizer. `adamWMode`, `torchAdam`, `biasCorrection` and `amsgrad` are DeepSpeed's own
    /// parameters of Adam.
    ///
    /// @param type as written, such as "AdamW"
    /// @param beta1 and `beta2` come from the list `betas`
    public record Optimizer(
            String type,
            @Nullable Double lr,
            @Nullable Double beta1,
            @Nullable Double beta2,
            @Nullable Double eps,
            @Nullable Double weightDecay,
            boolean adamWMode,
            boolean torchAdam,
            boolean biasCorrection,
            boolean amsgrad) {
        /// Whether the type is Adam or AdamW, in any case.
        public boolean isAdam() {
            return type.equalsIgnoreCase("Adam") || type.equalsIgnoreCase("AdamW");
        }
    }

    /// The learning-rate schedule.
    ///
    /// @param type as written, such as "WarmupLR"
    /// @param warmupType the curve of the warmup: "log" (DeepSpeed's default) or "linear"
    /// @param warmupMinRatio of WarmupCosineLR: where the warmup starts, as a part of the learning rate
    /// @param cosMinRatio of WarmupCosineLR: where the cosine ends, as a part of the learning rate; null:
    /// 0.0001, unless the trainer's argument says otherwise
    public record Scheduler(
            String type,
            @Nullable Double warmupMinLr,
            @Nullable Double warmupMaxLr,
            @Nullable Long warmupNumSteps,
            @Nullable Long totalNumSteps,
            String warmupType,
            double warmupMinRatio,
            @Nullable Double cosMinRatio) {}

    /// Half precision with loss scaling: see [LossScaling].
    ///
    /// @param autoCast whether inputs are cast to fp16; a language model's are integers
    /// @param lossScale a static scale; 0: dynamic
    /// @param initialScalePower the dynamic scale begins with 2 to this
    public record Fp16(
            @Nullable Boolean enabled,
            boolean autoCast,
            double lossScale,
            long initialScalePower,
            long lossScaleWindow,
            long hysteresis,
            boolean consecutiveHysteresis,
            double minLossScale,
            boolean fp16MasterWeightsAndGrads) {}

    /// bfloat16.
    public record Bf16(@Nullable Boolean enabled, boolean bf16MasterWeightsAndGrads, boolean bf16OptimizerStates) {}

    /// ZeRO. Bucket sizes count elements.
    public record ZeroOptimization(
            long stage,
            @Nullable Long reduceBucketSize,
            @Nullable Long allgatherBucketSize,
            @Nullable Boolean overlapComm,
            boolean contiguousGradients,
            boolean reduceScatter,
            boolean roundRobinGradients,
            long subGroupSize,
            @Nullable Long stage3PrefetchBucketSize,
            @Nullable Long stage3ParamPersistenceThreshold,
            long stage3MaxLiveParameters,
            long stage3MaxReuseDistance,
            boolean stage3Gather16bitWeightsOnModelSave,
            boolean zeroQuantizedWeights,
            boolean zeroQuantizedGradients,
            long zeroHpzPartitionSize,
            OffloadParam offloadParam,
            OffloadOptimizer offloadOptimizer) {}

    /// Where parameters wait: `device` is none, cpu or nvme.
    public record OffloadParam(
            String device,
            @Nullable String nvmePath,
            boolean pinMemory,
            long bufferCount,
            long bufferSize,
            long maxInCpu) {}

    /// Where optimizer states wait: `device` is none, cpu or nvme; `ratio` is the part of them that does.
    public record OffloadOptimizer(
            String device,
            @Nullable String nvmePath,
            boolean pinMemory,
            long bufferCount,
            boolean pipelineRead,
            boolean pipelineWrite,
            double ratio) {}

    /// Asynchronous file access of NVMe offload. `given` says whether the file has the section.
    public record Aio(
            boolean given,
            long blockSize,
            long queueDepth,
            long intraOpParallelism,
            boolean singleSubmit,
            boolean overlapEvents) {}

    /// What becomes of activations that backward will need.
    public record ActivationCheckpointing(
            boolean partitionActivations,
            boolean cpuCheckpointing,
            boolean contiguousMemoryOptimization,
            @Nullable Long numberCheckpoints,
            boolean synchronizeCheckpointBoundary,
            boolean profile) {}

    /// Pipeline parallelism. `stages` is null where the trainer's argument decides.
    public record Pipeline(@Nullable Long stages, String partition, long activationCheckpointInterval) {}

    /// The profile of one step.
    public record FlopsProfiler(
            boolean enabled,
            long profileStep,
            long moduleDepth,
            long topModules,
            boolean detailed,
            @Nullable String outputFile) {}

    /// The log of collectives.
    public record CommsLogger(boolean enabled, boolean verbose, boolean profAll, boolean debug, List<String> profOps) {}

    /// A writer of metrics: tensorboard or csv_monitor.
    public record Monitor(boolean enabled, String outputPath, String jobName) {}

    /// Reads a file. Throws [UserException] with one sentence that names file and key where the file
    /// cannot be read, is no JSON, has a duplicate or unknown key, or a value of the wrong type or range.
    public static DeepSpeedConfig read(Path file) {
        return DeepSpeedParser.read(file);
    }

    /// Parses a file's text; `name` stands for the file in messages. Errors are those of [#read].
    public static DeepSpeedConfig parse(String name, String json) {
        return DeepSpeedParser.parse(name, json);
    }
}
