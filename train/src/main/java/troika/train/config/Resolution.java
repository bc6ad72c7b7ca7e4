package troika.train.config;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.ServiceLoader;
import org.jspecify.annotations.Nullable;
import troika.plan.Layout;
import troika.tensor.DType;
import troika.tensor.DeviceProvider;
import troika.tensor.UserException;
import troika.train.config.BatchSizes.Given;
import troika.train.config.DeepSpeedConfig.Optimizer;
import troika.train.config.DeepSpeedConfig.Scheduler;

/// Makes one set of options of a user's arguments and DeepSpeed's file. Where both speak of one thing they
/// must agree; where neither does, the default is Hugging Face's, if it has one.
final class Resolution {
    private static final long MOST_STEPS = 1L << 40;
    private static final String TRAIN = "--train-batch-size";
    private static final String MICRO = "--per-device-train-batch-size";
    private static final String ACCUMULATION = "--gradient-accumulation-steps";

    private final TrainingOptionsBuilder given;
    private final @Nullable DeepSpeedConfig file;

    Resolution(TrainingOptionsBuilder given) {
        this.given = given;
        this.file = given.configFile == null ? null : DeepSpeedConfig.read(given.configFile);
    }

    TrainingOptions resolve() {
        SharingResolution resolution = new SharingResolution(given, file, this);
        Devices devices = devices(resolution.leastRanks());
        Sharing sharing = resolution.resolve(devices);
        // Everything that is wrong with the file is said at once.
        List<String> problems = new ArrayList<>(file == null ? List.of() : DeepSpeedSupport.unsupported(file));
        BatchSizes batch = null;
        try {
            batch = batch(sharing.layout().microbatchUnit());
        } catch (UserException e) {
            problems.add(Objects.requireNonNullElse(e.getMessage(), ""));
        }
        if (batch == null || !problems.isEmpty()) {
            throw new UserException(String.join("\n", problems));
        }
        String model = required(given.model, "--model", "a model folder or a preset such as quickstart");
        List<String> data = given.data == null ? List.of() : given.data;
        if (data.isEmpty()) {
            throw new UserException("--data is missing: give files or folders of text, \"jdk\" or \"synthetic\".");
        }
        Optimizer adam = file == null ? null : file.optimizer();
        Scheduler scheduler = file == null ? null : file.scheduler();
        double learningRate = positive("--learning-rate", learningRate(adam, scheduler));
        Curve curve = curve(scheduler, learningRate);
        DType dtype = dtype();
        return new TrainingOptions(
                model,
                or(given.fromScratch, false),
                data,
                tokenizer(model),
                given.configFile,
                devices.toString(),
                dtype,
                optimizerStates(),
                dtype == DType.F16 ? lossScaling() : LossScaling.NONE,
                (int) inRange("--sequence-length", or(given.sequenceLength, 512), 2, 1 << 24),
                batch,
                positive("--num-train-epochs", or(given.numTrainEpochs, 3.0)),
                inRange("--max-steps", or(given.maxSteps, 0L), 0, MOST_STEPS),
                learningRate,
                notNegative(
                        "--weight-decay",
                        or(
                                agree(
                                        given.weightDecay,
                                        "--weight-decay",
                                        adam == null ? null : adam.weightDecay(),
                                        "optimizer.params.weight_decay"),
                                0.0)),
                beta("--adam-beta1", given.adamBeta1, adam == null ? null : adam.beta1(), 0.9),
                beta("--adam-beta2", given.adamBeta2, adam == null ? null : adam.beta2(), 0.999),
                positive(
                        "--adam-epsilon",
                        or(
                                agree(
                                        given.adamEpsilon,
                                        "--adam-epsilon",
                                        adam == null ? null : adam.eps(),
                                        "optimizer.params.eps"),
                                1e-8)),
                curve.type,
                curve.warmupSteps,
                curve.start,
                curve.logarithmic,
                curve.floor,
                curve.totalSteps,
                notNegative(
                        "--max-grad-norm",
                        or(
                                agree(
                                        given.maxGradNorm,
                                        "--max-grad-norm",
                                        file == null ? null : file.gradientClipping(),
                                        "gradient_clipping"),
                                1.0)),
                sharing,
                or(given.recompute, Recompute.NONE),
                or(given.evalData, List.of()),
                inRange("--eval-steps", or(given.evalSteps, 0L), 0, MOST_STEPS),
                inRange(
                        "--logging-steps",
                        or(
                                agree(
                                        given.loggingSteps,
                                        "--logging-steps",
                                        file == null ? null : file.stepsPerPrint(),
                                        "steps_per_print"),
                                10L),
                        1,
                        Long.MAX_VALUE),
                or(given.saveStrategy, SaveStrategy.STEPS),
                inRange("--save-steps", or(given.saveSteps, 500L), 1, MOST_STEPS),
                (int) inRange("--save-total-limit", or(given.saveTotalLimit, 0), 0, Integer.MAX_VALUE),
                or(given.saveDtype, dtype),
                or(given.deterministic, true),
                or(given.seed, 42L),
                or(given.output, Path.of("troika-out")),
                given.resume,
                given.dumpProgram,
                inRange("--profile-step", or(given.profileStep, 0L), 0, MOST_STEPS));
    }

    /// Sequences of a step; see [TrainingOptionsBuilder#batch].
    int trainBatchSize() {
        SharingResolution resolution = new SharingResolution(given, file, this);
        Sharing sharing = resolution.resolve(devices(resolution.leastRanks()));
        Given train = numbers().train;
        // The other numbers of a step of so many sequences may be meant for another layout.
        return train != null && given.sameBatch == null
                ? Math.toIntExact(train.value())
                : batch(sharing.layout().microbatchUnit()).trainBatchSize();
    }

    /// @param least ranks that there must be
    private Devices devices(int least) {
        var providers = ServiceLoader.load(DeviceProvider.class);
        if (given.numGpus == null) {
            return Devices.of(or(given.devices, Devices.AUTO), least, providers, given.notice);
        }
        int ranks = (int) inRange("--num-gpus", given.numGpus, 1, Layout.MOST_RANKS);
        if (given.devices == null) {
            return Devices.counted(ranks, "--num-gpus " + ranks, providers, given.notice);
        }
        Devices devices = Devices.of(given.devices, ranks, providers, given.notice);
        if (devices.ranks() != ranks) {
            throw new UserException(
                    "--num-gpus " + ranks + " contradicts --devices " + given.devices + ": give one of them.");
        }
        return devices;
    }

    /// What arguments and file together say of batches.
    private record Numbers(
            @Nullable Given train,
            @Nullable Given micro,
            @Nullable Given accumulation) {}

    private Numbers numbers() {
        var json = file == null ? null : file.batch();
        return new Numbers(
                agree(given(TRAIN, given.trainBatchSize), json == null ? null : jsonTrain(json)),
                agree(
                        given(MICRO, given.microBatchSize),
                        json == null
                                ? null
                                : given("train_micro_batch_size_per_gpu", json.trainMicroBatchSizePerGpu())),
                agree(
                        given(ACCUMULATION, given.gradientAccumulationSteps),
                        json == null ? null : given("gradient_accumulation_steps", json.gradientAccumulationSteps())));
    }

    private static @Nullable Given jsonTrain(DeepSpeedConfig.Batch json) {
        return given("train_batch_size", json.trainBatchSize());
    }

    private BatchSizes batch(int ranks) {
        Given same = given(TRAIN, given.sameBatch);
        if (same != null) {
            return sameBatch(same, ranks);
        }
        var json = file == null ? null : file.batch();
        Given train = json == null ? null : jsonTrain(json);
        Given micro = given(MICRO, given.microBatchSize);
        Given accumulation = given(ACCUMULATION, given.gradientAccumulationSteps);
        // The product says more than two numbers that differ, so it comes first.
        if (train != null && micro != null && accumulation != null) {
            BatchSizes.check(inFile(train), micro, accumulation, ranks);
        }
        Numbers numbers = numbers();
        return BatchSizes.solve(numbers.train, numbers.micro, numbers.accumulation, ranks);
    }

    private BatchSizes sameBatch(Given train, int ranks) {
        Numbers numbers = numbers();
        Given accumulation = numbers.accumulation;
        Given micro = numbers.micro;
        if (accumulation == null && micro != null) {
            long steps = Math.min(Math.ceilDiv(train.value(), micro.value() * ranks), train.value() / ranks);
            accumulation = new Given(Math.max(1, steps), ACCUMULATION);
        }
        return BatchSizes.solve(train, null, accumulation, ranks);
    }

    private static @Nullable Given given(String name, @Nullable Number value) {
        return value == null ? null : new Given(inRange(name, value.longValue(), 1, 1 << 24), name);
    }

    private Given inFile(Given json) {
        return new Given(json.value(), (file == null ? "" : file.file() + ": ") + json.name());
    }

    private @Nullable Given agree(@Nullable Given argument, @Nullable Given json) {
        if (argument != null && json != null) {
            agree(argument.value(), argument.name(), json.value(), json.name());
        }
        if (json != null) {
            return inFile(json);
        }
        return argument;
    }

    private double learningRate(@Nullable Optimizer adam, @Nullable Scheduler scheduler) {
        Double lr = adam == null ? null : adam.lr();
        Double most = scheduler == null ? null : scheduler.warmupMaxLr();
        if (file != null && lr != null && most != null && !lr.equals(most)) {
            throw new UserException(file.file() + ": optimizer.params.lr is " + number(lr)
                    + " and scheduler.params.warmup_max_lr is " + number(most) + ": give both the same value.");
        }
        Double argument = agree(given.learningRate, "--learning-rate", lr, "optimizer.params.lr");
        return or(agree(argument, "--learning-rate", most, "scheduler.params.warmup_max_lr"), 5e-5);
    }

    /// The course of the learning rate.
    private record Curve(
            SchedulerType type, long warmupSteps, double start, boolean logarithmic, double floor, long totalSteps) {}

    private Curve curve(@Nullable Scheduler scheduler, double learningRate) {
        long warmup = or(
                agree(
                        given.warmupSteps,
                        "--warmup-steps",
                        scheduler == null ? null : scheduler.warmupNumSteps(),
                        "scheduler.params.warmup_num_steps"),
                0L);
        inRange("--warmup-steps", warmup, 0, MOST_STEPS);
        SchedulerType named = scheduler == null ? null : SchedulerType.ofDeepSpeed(scheduler.type());
        SchedulerType type =
                or(agree(given.lrSchedulerType, "--lr-scheduler-type", named, "scheduler.type"), SchedulerType.LINEAR);
        if (type == SchedulerType.CONSTANT && warmup > 0) {
            throw new UserException("--warmup-steps " + warmup
                    + " contradicts the schedule constant, which has no warmup: use constant_with_warmup.");
        }
        Double jsonFloor = null;
        double start = 0;
        if (scheduler != null && type == SchedulerType.COSINE) {
            Double ratio = scheduler.cosMinRatio();
            if (ratio != null || given.minLearningRate == null) {
                jsonFloor = or(ratio, 0.0001) * learningRate;
            }
            start = scheduler.warmupMinRatio() * learningRate;
        } else if (scheduler != null && scheduler.warmupMinLr() != null) {
            start = scheduler.warmupMinLr();
            jsonFloor = type == SchedulerType.LINEAR ? scheduler.warmupMinLr() : null;
        }
        String key = type == SchedulerType.COSINE
                ? "scheduler.params.cos_min_ratio × learning rate"
                : "scheduler.params.warmup_min_lr";
        double floor = notNegative(
                "--min-learning-rate", or(agree(given.minLearningRate, "--min-learning-rate", jsonFloor, key), 0.0));
        if (Math.max(floor, start) > learningRate) {
            throw new UserException("The smallest learning rate " + number(Math.max(floor, start))
                    + " is above the learning rate " + number(learningRate) + ": lower --min-learning-rate.");
        }
        Long total = scheduler == null ? null : scheduler.totalNumSteps();
        return new Curve(
                type,
                warmup,
                start,
                scheduler != null && scheduler.warmupType().equals("log"),
                floor,
                total == null ? 0 : total);
    }

    private double beta(String option, @Nullable Double argument, @Nullable Double json, double absent) {
        double beta = or(agree(argument, option, json, "optimizer.params.betas"), absent);
        if (!(beta >= 0 && beta < 1)) {
            throw new UserException(option + " must be at least 0 and below 1, and is " + number(beta) + ".");
        }
        return beta;
    }

    private DType dtype() {
        if (given.dtype == DType.I32) {
            throw new UserException("--dtype must be fp32, bf16 or fp16, and is int32.");
        }
        var bf16 = file == null ? null : file.bf16();
        var fp16 = file == null ? null : file.fp16();
        Boolean isBf16 = bf16 == null ? null : bf16.enabled();
        boolean isFp16 = fp16 != null && Boolean.TRUE.equals(fp16.enabled());
        if (file != null && fp16 != null && given.dtype == DType.F16 && Boolean.FALSE.equals(fp16.enabled())) {
            throw new UserException("--dtype is fp16, but fp16.enabled in " + file.file()
                    + " is false: give one of them, or both the same value.");
        }
        if (file != null && isFp16 && Boolean.TRUE.equals(isBf16)) {
            throw new UserException(
                    file.file() + ": fp16.enabled and bf16.enabled are both true: set one of them to false.");
        }
        if (isFp16) {
            return or(agree(given.dtype, "--dtype", DType.F16, "the dtype that fp16.enabled asks for"), DType.F16);
        }
        DType json = null;
        if (isBf16 != null && (isBf16 || given.dtype != DType.F16)) {
            // Without bf16 there is fp32, unless the argument says fp16.
            json = isBf16 ? DType.BF16 : DType.F32;
        }
        return or(agree(given.dtype, "--dtype", json, "the dtype that bf16.enabled asks for"), DType.BF16);
    }

    private DType optimizerStates() {
        DType argument = given.optimizerStates;
        if (argument == DType.F16 || argument == DType.I32) {
            throw new UserException("--optimizer-states must be fp32 or bf16, and is " + word(argument) + ".");
        }
        var bf16 = file == null ? null : file.bf16();
        DType json = bf16 != null && bf16.bf16OptimizerStates() ? DType.BF16 : null;
        return or(
                agree(argument, "--optimizer-states", json, "the dtype that bf16.bf16_optimizer_states asks for"),
                DType.F32);
    }

    private LossScaling lossScaling() {
        var fp16 = file == null ? null : file.fp16();
        if (file == null || fp16 == null) {
            return new LossScaling(true, 0x1p16, 1000, 2, false, 1);
        }
        String path = file.file() + ": fp16.";
        inRange(path + "initial_scale_power", fp16.initialScalePower(), 0, 120);
        positive(path + "min_loss_scale", fp16.minLossScale());
        if (fp16.lossScale() > 0x1p120) {
            throw new UserException(
                    path + "loss_scale must be at most 2^120, and is " + number(fp16.lossScale()) + ".");
        }
        return new LossScaling(
                fp16.lossScale() == 0,
                fp16.lossScale() == 0 ? Math.scalb(1.0, (int) fp16.initialScalePower()) : fp16.lossScale(),
                fp16.lossScaleWindow(),
                fp16.hysteresis(),
                fp16.consecutiveHysteresis(),
                fp16.minLossScale());
    }

    private String tokenizer(String model) {
        if (given.tokenizer != null) {
            return given.tokenizer;
        }
        Path folder = Path.of(model);
        if (!Files.isDirectory(folder)) {
            return "byte";
        }
        Path tokenizer = folder.resolve("tokenizer.json");
        if (!Files.isRegularFile(tokenizer)) {
            throw new UserException("The model folder " + folder
                    + " has no tokenizer.json: give --tokenizer with a tokenizer.json, or --tokenizer byte.");
        }
        return tokenizer.toString();
    }

    /// The one value that argument and file give; null where neither gives one.
    <T> @Nullable T agree(@Nullable T argument, String option, @Nullable T json, String key) {
        if (file != null && argument != null && json != null && !argument.equals(json)) {
            throw new UserException(option + " is " + word(argument) + ", but " + key + " in " + file.file() + " is "
                    + word(json) + ": give one of them, or both the same value.");
        }
        return json != null ? json : argument;
    }

    private static String word(Object value) {
        return switch (value) {
            case DType dtype ->
                dtype == DType.F32 ? "fp32" : dtype == DType.F16 ? "fp16" : dtype == DType.BF16 ? "bf16" : "int32";
            case SchedulerType type -> type.word();
            case Double number -> number(number);
            case Boolean on -> on ? "on" : "off";
            default -> value.toString();
        };
    }

    private static String number(double value) {
        return JsonSection.plain(value);
    }

    private static <T> T or(@Nullable T value, T absent) {
        return value != null ? value : absent;
    }

    private static String required(@Nullable String value, String option, String what) {
        if (value == null || value.isBlank()) {
            throw new UserException(option + " is missing: give " + what + ".");
        }
        return value;
    }

    static long inRange(String option, long value, long least, long most) {
        if (value < least || value > most) {
            throw new UserException(
                    option + " must be " + (most >= MOST_STEPS ? "at least " + least : "from " + least + " to " + most)
                            + ", and is " + value + ".");
        }
        return value;
    }

    private static double positive(String option, double value) {
        if (!(value > 0) || Double.isInfinite(value)) {
            throw new UserException(option + " must be above 0, and is " + number(value) + ".");
        }
        return value;
    }

    private static double notNegative(String option, double value) {
        if (!(value >= 0) || Double.isInfinite(value)) {
            throw new UserException(option + " must be at least 0, and is " + number(value) + ".");
        }
        return value;
    }
}
