package troika.train.config;

import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.tensor.DType;

/// A run as resolved: every default filled in, DeepSpeed's file and the command line merged. Options are
/// named as Hugging Face's TrainingArguments are. [#builder] makes one.
///
/// @param model a folder with config.json (with weights: fine-tuning), or a preset's name
/// @param fromScratch whether to ignore weights that the folder has
/// @param data text to train on: files, folders, globs, `jdk` or `synthetic`
/// @param tokenizer a tokenizer.json, or `byte`
/// @param configFile DeepSpeed's JSON file, already resolved into these options; null: none
/// @param devices such as `cpu:3`, three ranks, or `cuda:0,1,2`
/// @param dtype of weights and activations in compute: F32, BF16 or F16; masters are F32
/// @param optimizerStates dtype of AdamW's moments: F32, or BF16, rounded stochastically
/// @param lossScaling of fp16; otherwise none
/// @param sequenceLength tokens of a sequence
/// @param batch sequences of a step and how they are cut into microbatches
/// @param numTrainEpochs passes over the data, where `maxSteps` is 0
/// @param maxSteps optimizer steps; 0: `numTrainEpochs` decides
/// @param learningRate the peak learning rate
/// @param weightDecay AdamW's decoupled weight decay, of matrices only
/// @param adamBeta1 decay of the first moment
/// @param adamBeta2 decay of the second moment
/// @param adamEpsilon added to the root of the second moment
/// @param lrSchedulerType course of the learning rate after the warmup
/// @param warmupSteps steps in which the learning rate rises to its peak
/// @param warmupLearningRate the learning rate at the warmup's start; 0 unless DeepSpeed's file says
/// otherwise
/// @param logarithmicWarmup whether the warmup rises as a logarithm; only where DeepSpeed's file has a
/// scheduler
/// @param minLearningRate where falling schedules end
/// @param scheduleSteps where falling schedules end, in steps; 0: with the run
/// @param maxGradNorm gradients are scaled down to this global norm; 0: never
/// @param sharing how ranks share the work
/// @param recompute activations that backward computes again
/// @param evalData text to evaluate on, as `data`; empty: none
/// @param evalSteps steps between evaluations; 0: only at the end
/// @param loggingSteps steps between lines of progress where there is no terminal
/// @param saveStrategy when checkpoints are written
/// @param saveSteps steps between checkpoints of the strategy `steps`
/// @param saveTotalLimit checkpoints to keep, the newest; 0: all
/// @param saveDtype element type of weights in checkpoints and in the final model
/// @param deterministic whether two runs with one seed and layout must be bitwise equal
/// @param seed of initial weights, shuffling and synthetic data
/// @param output folder of the run
/// @param resume `latest`, or a checkpoint's folder; null: a new run
/// @param dumpProgram file to write the step program to; null: none
/// @param profileStep the first of the steps whose instructions are timed; 0: none
public record TrainingOptions(
        String model,
        boolean fromScratch,
        List<String> data,
        String tokenizer,
        @Nullable Path configFile,
        String devices,
        DType dtype,
        DType optimizerStates,
        LossScaling lossScaling,
        int sequenceLength,
        BatchSizes batch,
        double numTrainEpochs,
        long maxSteps,
        double learningRate,
        double weightDecay,
        double adamBeta1,
        double adamBeta2,
        double adamEpsilon,
        SchedulerType lrSchedulerType,
        long warmupSteps,
        double warmupLearningRate,
        boolean logarithmicWarmup,
        double minLearningRate,
        long scheduleSteps,
        double maxGradNorm,
        Sharing sharing,
        Recompute recompute,
        List<String> evalData,
        long evalSteps,
        long loggingSteps,
        SaveStrategy saveStrategy,
        long saveSteps,
        int saveTotalLimit,
        DType saveDtype,
        boolean deterministic,
        long seed,
        Path output,
        @Nullable String resume,
        @Nullable Path dumpProgram,
        long profileStep) {
    public TrainingOptions {
        data = List.copyOf(data);
        evalData = List.copyOf(evalData);
    }

    /// Starts with nothing given: [TrainingOptionsBuilder#build] fills in the defaults.
    public static TrainingOptionsBuilder builder() {
        return new TrainingOptionsBuilder();
    }

    /// Number of ranks.
    public int ranks() {
        return sharing.layout().worldSize();
    }

    /// The learning rates of a run of `totalSteps` steps.
    public Schedule schedule(long totalSteps) {
        return new Schedule(
                lrSchedulerType,
                learningRate,
                warmupLearningRate,
                minLearningRate,
                warmupSteps,
                logarithmicWarmup,
                scheduleSteps > 0 ? scheduleSteps : totalSteps);
    }
}
