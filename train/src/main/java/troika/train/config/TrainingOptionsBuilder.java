package troika.train.config;

import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import troika.plan.Layout;
import troika.plan.PipelineSchedule;
import troika.tensor.DType;

/// Collects what a user says about a run; what is not said comes from DeepSpeed's file, or is a default.
public final class TrainingOptionsBuilder implements Cloneable {
    @Nullable
    String model;

    @Nullable
    Boolean fromScratch;

    @Nullable
    List<String> data;

    @Nullable
    String tokenizer;

    @Nullable
    Path configFile;

    @Nullable
    String devices;

    @Nullable
    DType dtype;

    @Nullable
    DType optimizerStates;

    @Nullable
    Integer sequenceLength;

    @Nullable
    Integer trainBatchSize;

    @Nullable
    Integer microBatchSize;

    /// In place of all other batch sizes.
    @Nullable
    Integer sameBatch;

    @Nullable
    Integer gradientAccumulationSteps;

    @Nullable
    Integer numGpus;

    @Nullable
    Double numTrainEpochs;

    @Nullable
    Long maxSteps;

    @Nullable
    Double learningRate;

    @Nullable
    Double weightDecay;

    @Nullable
    Double adamBeta1;

    @Nullable
    Double adamBeta2;

    @Nullable
    Double adamEpsilon;

    @Nullable
    SchedulerType lrSchedulerType;

    @Nullable
    Long warmupSteps;

    @Nullable
    Double minLearningRate;

    @Nullable
    Double maxGradNorm;

    @Nullable
    Integer zeroStage;

    @Nullable
    Integer tensorParallel;

    @Nullable
    Integer pipelineParallel;

    @Nullable
    Layout layout;

    @Nullable
    List<Double> shares;

    @Nullable
    PipelineSchedule pipelineSchedule;

    @Nullable
    Integer pipelineChunks;

    @Nullable
    Boolean sequenceParallel;

    @Nullable
    DType communicationDtype;

    @Nullable
    Boolean overlap;

    @Nullable
    Recompute recompute;

    @Nullable
    List<String> evalData;

    @Nullable
    Long evalSteps;

    @Nullable
    Long loggingSteps;

    @Nullable
    SaveStrategy saveStrategy;

    @Nullable
    Long saveSteps;

    @Nullable
    Integer saveTotalLimit;

    @Nullable
    DType saveDtype;

    @Nullable
    Boolean deterministic;

    @Nullable
    Long seed;

    @Nullable
    Path output;

    @Nullable
    String resume;

    @Nullable
    Path dumpProgram;

    @Nullable
    Long profileStep;

    Consumer<String> notice = _ -> {};

    TrainingOptionsBuilder() {}

    /// What has been said so far, to say more of.
    public TrainingOptionsBuilder copy() {
        try {
            return (TrainingOptionsBuilder) clone();
        } catch (CloneNotSupportedException e) {
            throw new IllegalStateException(e);
        }
    }

    /// Leaves what a comparison of layouts needs: 20 steps if nothing else is said, and the final weights in fp32.
    public TrainingOptionsBuilder forComparison() {
        maxSteps = maxSteps == null ? (Long) 20L : maxSteps;
        saveStrategy = SaveStrategy.NO;
        saveDtype = DType.F32;
        evalData = List.of();
        resume = null;
        return this;
    }

    /// Sequences of a step: as said or, where only those of a microbatch are, as many as they make in this layout.
    /// Throws [troika.tensor.UserException] where the layout, or the batch in it, is impossible.
    public int batch() {
        return new Resolution(this).trainBatchSize();
    }

    /// Takes so many sequences a step, whatever arguments and DeepSpeed's file say of them. Accumulation steps are as
    /// said; where nothing is said of them, as many as keep microbatches from growing larger than said.
    public TrainingOptionsBuilder sameBatch(int sequences) {
        sameBatch = sequences;
        return this;
    }

    /// Merges these values with DeepSpeed's file, solves the batch equation and fills in defaults. Throws
    /// [troika.tensor.UserException] where values are out of range, contradict each other or the file, or
    /// where this build cannot honour the file: one sentence a line.
    public TrainingOptions build() {
        return new Resolution(this).resolve();
    }

    /// A folder with config.json (with weights: fine-tuning), or a preset's name.
    public TrainingOptionsBuilder model(String model) {
        this.model = model;
        return this;
    }

    /// Whether to ignore weights that the folder has (default false).
    public TrainingOptionsBuilder fromScratch(boolean fromScratch) {
        this.fromScratch = fromScratch;
        return this;
    }

    /// Text to train on: files, folders, globs, `jdk` or `synthetic`.
    public TrainingOptionsBuilder data(List<String> data) {
        this.data = List.copyOf(data);
        return this;
    }

    /// A tokenizer.json, or `byte` (default the model folder's tokenizer.json, or `byte` for a preset).
    public TrainingOptionsBuilder tokenizer(String tokenizer) {
        this.tokenizer = tokenizer;
        return this;
    }

    /// DeepSpeed's JSON file.
    public TrainingOptionsBuilder configFile(Path configFile) {
        this.configFile = configFile;
        return this;
    }

    /// `auto`, `cpu:N` for N ranks, or a card for each rank, such as `cuda:0`, `cuda:0,1,2` or `cuda:0,0,0` (default
    /// auto: the first card, or as many as the layout has ranks, where they can be used, else so many CPU ranks).
    public TrainingOptionsBuilder devices(String devices) {
        this.devices = devices;
        return this;
    }

    /// Of weights and activations in compute: F32, BF16 or F16; masters are F32 (default bf16).
    public TrainingOptionsBuilder dtype(DType dtype) {
        this.dtype = dtype;
        return this;
    }

    /// Of AdamW's moments: F32, or BF16, which are rounded stochastically (default fp32).
    public TrainingOptionsBuilder optimizerStates(DType optimizerStates) {
        this.optimizerStates = optimizerStates;
        return this;
    }

    /// Tokens of a sequence (default 512).
    public TrainingOptionsBuilder sequenceLength(int sequenceLength) {
        this.sequenceLength = sequenceLength;
        return this;
    }

    /// Sequences of a step, over all ranks; need not divide by the ranks.
    public TrainingOptionsBuilder trainBatchSize(int trainBatchSize) {
        this.trainBatchSize = trainBatchSize;
        return this;
    }

    /// The most sequences of a rank's microbatch, 8 where nothing else says.
    public TrainingOptionsBuilder microBatchSize(int microBatchSize) {
        this.microBatchSize = microBatchSize;
        return this;
    }

    /// Microbatches that each rank runs in a step, 1 where nothing else says.
    public TrainingOptionsBuilder gradientAccumulationSteps(int gradientAccumulationSteps) {
        this.gradientAccumulationSteps = gradientAccumulationSteps;
        return this;
    }

    /// Ranks, as users of DeepSpeed say it: the first so many cards, or CPU ranks where there is no card.
    public TrainingOptionsBuilder numGpus(int numGpus) {
        this.numGpus = numGpus;
        return this;
    }

    /// Passes over the data, where `maxSteps` is 0 (default 3).
    public TrainingOptionsBuilder numTrainEpochs(double numTrainEpochs) {
        this.numTrainEpochs = numTrainEpochs;
        return this;
    }

    /// Optimizer steps; 0: `numTrainEpochs` decides (default 0).
    public TrainingOptionsBuilder maxSteps(long maxSteps) {
        this.maxSteps = maxSteps;
        return this;
    }

    /// The peak learning rate (default 5e-5).
    public TrainingOptionsBuilder learningRate(double learningRate) {
        this.learningRate = learningRate;
        return this;
    }

    /// AdamW's decoupled weight decay, of matrices only (default 0).
    public TrainingOptionsBuilder weightDecay(double weightDecay) {
        this.weightDecay = weightDecay;
        return this;
    }

    /// Decay of the first moment (default 0.9).
    public TrainingOptionsBuilder adamBeta1(double adamBeta1) {
        this.adamBeta1 = adamBeta1;
        return this;
    }

    /// Decay of the second moment (default 0.999).
    public TrainingOptionsBuilder adamBeta2(double adamBeta2) {
        this.adamBeta2 = adamBeta2;
        return this;
    }

    /// Added to the root of the second moment (default 1e-8).
    public TrainingOptionsBuilder adamEpsilon(double adamEpsilon) {
        this.adamEpsilon = adamEpsilon;
        return this;
    }

    /// Course of the learning rate after the warmup (default linear).
    public TrainingOptionsBuilder lrSchedulerType(SchedulerType lrSchedulerType) {
        this.lrSchedulerType = lrSchedulerType;
        return this;
    }

    /// Steps in which the learning rate rises to its peak (default 0).
    public TrainingOptionsBuilder warmupSteps(long warmupSteps) {
        this.warmupSteps = warmupSteps;
        return this;
    }

    /// Where falling schedules end (default 0).
    public TrainingOptionsBuilder minLearningRate(double minLearningRate) {
        this.minLearningRate = minLearningRate;
        return this;
    }

    /// Gradients are scaled down to this global norm; 0: never (default 1).
    public TrainingOptionsBuilder maxGradNorm(double maxGradNorm) {
        this.maxGradNorm = maxGradNorm;
        return this;
    }

    /// Sharded over data-parallel ranks: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too (default 1).
    public TrainingOptionsBuilder zeroStage(int zeroStage) {
        this.zeroStage = zeroStage;
        return this;
    }

    /// Ranks that share each layer (default 1); data parallelism takes what pipeline stages leave.
    public TrainingOptionsBuilder tensorParallel(int tensorParallel) {
        this.tensorParallel = tensorParallel;
        return this;
    }

    /// Stages that share the layers (default 1).
    public TrainingOptionsBuilder pipelineParallel(int pipelineParallel) {
        this.pipelineParallel = pipelineParallel;
        return this;
    }

    /// Stages with their own ranks, instead of `tensorParallel` and `pipelineParallel`.
    public TrainingOptionsBuilder layout(Layout layout) {
        this.layout = layout;
        return this;
    }

    /// A weight for each rank, by which work is shared (default all 1).
    public TrainingOptionsBuilder shares(List<Double> shares) {
        this.shares = List.copyOf(shares);
        return this;
    }

    /// The order in which stages run their microbatches (default 1f1b; interleaved where there are chunks).
    public TrainingOptionsBuilder pipelineSchedule(PipelineSchedule pipelineSchedule) {
        this.pipelineSchedule = pipelineSchedule;
        return this;
    }

    /// Runs of layers that each stage holds (default 1; 2 with the interleaved schedule).
    public TrainingOptionsBuilder pipelineChunks(int pipelineChunks) {
        this.pipelineChunks = pipelineChunks;
        return this;
    }

    /// Whether tensor-parallel ranks share the tokens between their products (default false).
    public TrainingOptionsBuilder sequenceParallel(boolean sequenceParallel) {
        this.sequenceParallel = sequenceParallel;
        return this;
    }

    /// Of gradients on their way between ranks: F32, BF16 or F16 (default fp32).
    public TrainingOptionsBuilder communicationDtype(DType communicationDtype) {
        this.communicationDtype = communicationDtype;
        return this;
    }

    /// Whether communication goes on beside computation (default true).
    public TrainingOptionsBuilder overlap(boolean overlap) {
        this.overlap = overlap;
        return this;
    }

    /// Activations that backward computes again (default none).
    public TrainingOptionsBuilder recompute(Recompute recompute) {
        this.recompute = recompute;
        return this;
    }

    /// Text to evaluate on, as `data`; empty: none.
    public TrainingOptionsBuilder evalData(List<String> evalData) {
        this.evalData = List.copyOf(evalData);
        return this;
    }

    /// Steps between evaluations; 0: only at the end (default 0).
    public TrainingOptionsBuilder evalSteps(long evalSteps) {
        this.evalSteps = evalSteps;
        return this;
    }

    /// Steps between lines of progress where there is no terminal (default 10).
    public TrainingOptionsBuilder loggingSteps(long loggingSteps) {
        this.loggingSteps = loggingSteps;
        return this;
    }

    /// When checkpoints are written (default steps).
    public TrainingOptionsBuilder saveStrategy(SaveStrategy saveStrategy) {
        this.saveStrategy = saveStrategy;
        return this;
    }

    /// Steps between checkpoints of the strategy `steps` (default 500).
    public TrainingOptionsBuilder saveSteps(long saveSteps) {
        this.saveSteps = saveSteps;
        return this;
    }

    /// Checkpoints to keep, the newest; 0: all (default 0).
    public TrainingOptionsBuilder saveTotalLimit(int saveTotalLimit) {
        this.saveTotalLimit = saveTotalLimit;
        return this;
    }

    /// Element type of weights in checkpoints and in the final model (default the dtype).
    public TrainingOptionsBuilder saveDtype(DType saveDtype) {
        this.saveDtype = saveDtype;
        return this;
    }

    /// Whether two runs with one seed and layout must be bitwise equal (default true).
    public TrainingOptionsBuilder deterministic(boolean deterministic) {
        this.deterministic = deterministic;
        return this;
    }

    /// Of initial weights, shuffling and synthetic data (default 42).
    public TrainingOptionsBuilder seed(long seed) {
        this.seed = seed;
        return this;
    }

    /// Folder of the run (default troika-out).
    public TrainingOptionsBuilder output(Path output) {
        this.output = output;
        return this;
    }

    /// `latest`, or a checkpoint's folder.
    public TrainingOptionsBuilder resume(String resume) {
        this.resume = resume;
        return this;
    }

    /// File to write the step program to.
    public TrainingOptionsBuilder dumpProgram(Path dumpProgram) {
        this.dumpProgram = dumpProgram;
        return this;
    }

    /// The first of three steps whose instructions are timed, into timeline.json; 0: none (default 0).
    public TrainingOptionsBuilder profileStep(long profileStep) {
        this.profileStep = profileStep;
        return this;
    }

    /// Who hears, a sentence each, what a user should know of how [#build] resolved the options: that a card which is
    /// there cannot be used (default nobody).
    public TrainingOptionsBuilder notice(Consumer<String> notice) {
        this.notice = notice;
        return this;
    }
}
