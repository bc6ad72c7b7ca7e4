package troika.app;

import java.nio.file.Path;
import java.util.Map;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.config.Recompute;
import troika.train.config.SaveStrategy;
import troika.train.config.SchedulerType;
import troika.train.config.Sharing;
import troika.train.config.TrainingOptionsBuilder;

/// The options that say what to train, how and on what.
final class TrainingFlags {
    private static final Map<String, DType> DTYPES = Map.of(
            "fp32", DType.F32,
            "float32", DType.F32,
            "bf16", DType.BF16,
            "bfloat16", DType.BF16,
            "fp16", DType.F16,
            "float16", DType.F16);

    private TrainingFlags() {}

    /// Adds them to a command's.
    static void add(Options options, TrainingOptionsBuilder run) {
        options.text(
                        "DIR|PRESET",
                        "A folder with config.json (with weights: fine-tune them; without: start at random), or a preset:"
                                + " quickstart, deepseek-llm-7b, deepseek-coder-1.3b, article-48l, ... (required)",
                        run::model,
                        "--model")
                .flag("Ignore the weights in the model's folder.", () -> run.fromScratch(true), "--from-scratch")
                .texts(
                        "PATH",
                        "Text to train on: .txt, .jsonl with \"text\", .parquet, .zip, .jar, source files; folders and"
                                + " globs; jdk (the JDK's own source); synthetic (random tokens). (required)",
                        run::data,
                        "--data")
                .text(
                        "FILE|byte",
                        "A tokenizer.json, or byte. (default: the one in the model's folder; byte for a preset)",
                        run::tokenizer,
                        "--tokenizer")
                .text("FILE", "DeepSpeed's JSON configuration.", file -> run.configFile(Path.of(file)), "--config")
                .text(
                        "auto|cpu:N|cuda:N,N,...",
                        "cuda:0,1,2 or cuda:0-2: a rank on each of these NVIDIA cards; cuda:0,0,0: three on one; cpu:N: N"
                                + " ranks on the CPU; auto: the first card, or as many as the layout needs, where they"
                                + " can be used, else the CPU. (default: auto)",
                        run::devices,
                        "--devices")
                .integer(
                        "Ranks: the first N cards, or --devices cpu:N where there is no card.",
                        run::numGpus,
                        "--num-gpus",
                        "--num_gpus")
                .text(
                        "fp32|bf16|fp16",
                        "Element type of the computation; masters are fp32. fp16 scales the loss as the fp16 section"
                                + " of --config says, by default dynamically from 65536. (default: bf16)",
                        word -> run.dtype(dtype("--dtype", word)),
                        "--dtype")
                .text(
                        "fp32|bf16",
                        "Element type of the optimizer's moments; bf16 is rounded stochastically and takes 4 bytes a"
                                + " parameter less. (default: fp32)",
                        word -> run.optimizerStates(dtype("--optimizer-states", word)),
                        "--optimizer-states")
                .integer("Tokens of a sequence. (default: 512)", run::sequenceLength, "--sequence-length")
                .integer(
                        "Sequences of a step over all ranks. (default: what the next two and the ranks give)",
                        run::trainBatchSize,
                        "--train-batch-size")
                .integer(
                        "The most sequences a rank takes at once. (default: 8)",
                        run::microBatchSize,
                        "--per-device-train-batch-size",
                        "--micro-batch-size")
                .integer(
                        "Microbatches of a rank in a step. (default: 1)",
                        run::gradientAccumulationSteps,
                        "--gradient-accumulation-steps")
                .number("Passes over the data. (default: 3)", run::numTrainEpochs, "--num-train-epochs")
                .count("Steps; 0: as the epochs say. (default: 0)", run::maxSteps, "--max-steps")
                .number("The peak learning rate. (default: 5e-5)", run::learningRate, "--learning-rate")
                .number("Weight decay of matrices. (default: 0)", run::weightDecay, "--weight-decay")
                .number("Decay of the first moment. (default: 0.9)", run::adamBeta1, "--adam-beta1")
                .number("Decay of the second moment. (default: 0.999)", run::adamBeta2, "--adam-beta2")
                .number("Epsilon of AdamW. (default: 1e-8)", run::adamEpsilon, "--adam-epsilon")
                .text(
                        "NAME",
                        "linear, cosine, constant, constant_with_warmup, or DeepSpeed's WarmupLR, WarmupDecayLR,"
                                + " WarmupCosineLR. (default: linear)",
                        word -> run.lrSchedulerType(SchedulerType.of(word)),
                        "--lr-scheduler-type")
                .count("Steps of rising learning rate. (default: 0)", run::warmupSteps, "--warmup-steps")
                .number("Where linear and cosine end. (default: 0)", run::minLearningRate, "--min-learning-rate")
                .number(
                        "Scale gradients down to this global norm; 0: never. (default: 1)",
                        run::maxGradNorm,
                        "--max-grad-norm")
                .integer(
                        "Shard over the data-parallel ranks: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights"
                                + " too. (default: 1)",
                        run::zeroStage,
                        "--zero-stage")
                .integer(
                        "Ranks that share each layer; data parallelism takes the rest. (default: 1)",
                        run::tensorParallel,
                        "--tensor-parallel",
                        "--tensor-parallel-size")
                .integer(
                        "Stages that share the layers; data parallelism takes the rest. (default: 1)",
                        run::pipelineParallel,
                        "--pipeline-parallel",
                        "--pipeline-parallel-size")
                .text(
                        "X,X,...",
                        "A weight for each rank, by which layers, heads and sequences are shared among cards of unequal"
                                + " speed, such as 1,1,0.6. (default: all 1)",
                        text -> run.shares(Sharing.shares(text)),
                        "--shares")
                .text(
                        "1f1b|interleaved|zero-bubble",
                        "Order in which stages run their microbatches. (default: 1f1b)",
                        word -> run.pipelineSchedule(Sharing.schedule(word)),
                        "--pipeline-schedule")
                .integer(
                        "Runs of layers that each stage holds. (default: 1; 2 with interleaved)",
                        run::pipelineChunks,
                        "--pipeline-chunks")
                .text(
                        "on|off",
                        "Whether tensor-parallel ranks share the tokens of norms and residuals. (default: off)",
                        word -> run.sequenceParallel(onOff("--sequence-parallel", word)),
                        "--sequence-parallel")
                .text(
                        "fp32|bf16|fp16",
                        "Element type of gradients on their way between ranks. (default: fp32)",
                        word -> run.communicationDtype(dtype("--communication-dtype", word)),
                        "--communication-dtype")
                .text(
                        "on|off",
                        "Whether communication goes on beside computation; changes no result. (default: on)",
                        word -> run.overlap(onOff("--overlap", word)),
                        "--overlap")
                .text(
                        "none|elementwise|layer",
                        "Activations to compute again in backward, to save memory: what norms and SwiGLUs gave, or all of a layer. (default: none)",
                        word -> run.recompute(Recompute.of(word)),
                        "--recompute")
                .texts(
                        "PATH",
                        "Text to evaluate on, as --data; or held-out: about 1 % of the training documents, not trained on.",
                        run::evalData,
                        "--eval-data")
                .count("Steps between evaluations; 0: at the end. (default: 0)", run::evalSteps, "--eval-steps")
                .count(
                        "Steps between lines of progress without a terminal. (default: 10)",
                        run::loggingSteps,
                        "--logging-steps")
                .text(
                        "no|steps|epoch",
                        "When to write checkpoints. (default: steps)",
                        word -> run.saveStrategy(SaveStrategy.of(word)),
                        "--save-strategy")
                .count("Steps between checkpoints. (default: 500)", run::saveSteps, "--save-steps")
                .integer("Checkpoints to keep; 0: all. (default: 0)", run::saveTotalLimit, "--save-total-limit")
                .text(
                        "fp32|bf16|fp16",
                        "Element type of saved weights. (default: --dtype)",
                        word -> run.saveDtype(dtype("--save-dtype", word)),
                        "--save-dtype")
                .text(
                        "on|off",
                        "Whether two equal runs are bitwise equal; off, cards choose the fastest of what differs in the"
                                + " last bits. (default: on)",
                        word -> run.deterministic(onOff("--deterministic", word)),
                        "--deterministic")
                .count("Of weights, shuffling and synthetic data. (default: 42)", run::seed, "--seed");
    }

    private static DType dtype(String option, String word) {
        DType dtype = DTYPES.get(word);
        if (dtype == null) {
            String words = option.equals("--optimizer-states") ? "fp32 or bf16" : "fp32, bf16 or fp16";
            throw new UserException(option + " must be " + words + ", and is \"" + word + "\".");
        }
        return dtype;
    }

    private static boolean onOff(String option, String word) {
        if (!word.equals("on") && !word.equals("off")) {
            throw new UserException(option + " must be on or off, and is \"" + word + "\".");
        }
        return word.equals("on");
    }
}
