package troika.train.config;

import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import troika.graph.Shares;
import troika.plan.Layout;
import troika.plan.PipelineSchedule;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.config.DeepSpeedConfig.ZeroOptimization;

/// Finds who does what: from arguments, DeepSpeed's file and the number of ranks.
final class SharingResolution {
    private static final String TENSOR = "--tensor-parallel";
    private static final String PIPELINE = "--pipeline-parallel";
    private static final int DEFAULT_CHUNKS = 2;

    private final TrainingOptionsBuilder given;
    private final @Nullable DeepSpeedConfig file;
    private final Resolution resolution;
    private final int tensorParallel;
    private final int stages;

    SharingResolution(TrainingOptionsBuilder given, @Nullable DeepSpeedConfig file, Resolution resolution) {
        this.given = given;
        this.file = file;
        this.resolution = resolution;
        Long tensor = file == null || file.autotpSize() == 0 ? null : (Long) file.autotpSize();
        Long pipeline = file == null ? null : file.pipeline().stages();
        Long jsonStages = pipeline == null || pipeline == 0 ? null : pipeline;
        Layout layout = given.layout;
        if (layout != null) {
            exclude(layout, TENSOR, given.tensorParallel != null);
            exclude(layout, PIPELINE, given.pipelineParallel != null);
            exclude(layout, inFile("tensor_parallel.autotp_size"), tensor != null && tensor > 1);
            exclude(layout, inFile("pipeline.stages"), jsonStages != null && jsonStages > 1);
        }
        tensorParallel = degree(TENSOR, given.tensorParallel, tensor, "tensor_parallel.autotp_size");
        stages = degree(PIPELINE, given.pipelineParallel, jsonStages, "pipeline.stages");
    }

    private static void exclude(Layout layout, String option, boolean present) {
        if (present) {
            throw new UserException("--layout \"" + layout + "\" says already which ranks are tensor and pipeline"
                    + " parallel: leave out " + option + ".");
        }
    }

    private String inFile(String key) {
        return key + (file == null ? "" : " in " + file.file());
    }

    private int degree(String option, @Nullable Integer argument, @Nullable Long json, String key) {
        Long of = resolution.agree(argument == null ? null : (Long) argument.longValue(), option, json, key);
        return of == null ? 1 : (int) Resolution.inRange(option, of, 1, Layout.MOST_RANKS);
    }

    /// The ranks that there must be, where nothing says how many there are.
    int leastRanks() {
        Layout layout = given.layout;
        if (layout != null) {
            return layout.worldSize();
        }
        List<Double> shares = given.shares;
        int unit = (int) Math.min((long) tensorParallel * stages, Layout.MOST_RANKS);
        return shares != null && !shares.isEmpty() && shares.size() % unit == 0
                ? Math.min(shares.size(), Layout.MOST_RANKS)
                : unit;
    }

    Sharing resolve(Devices devices) {
        Layout layout = layout(devices);
        List<Double> shares = given.shares;
        if (shares != null) {
            layout = layout.withShares(shares);
        }
        PipelineSchedule schedule = schedule(layout);
        ZeroOptimization zero = zero();
        return new Sharing(
                layout,
                zeroStage(),
                schedule,
                chunks(schedule),
                sequenceParallel(layout),
                communicationDtype(),
                overlap(),
                zero == null ? null : zero.stage3PrefetchBucketSize(),
                zero == null ? Sharing.DEFAULT_LIVE : zero.stage3MaxLiveParameters());
    }

    private @Nullable ZeroOptimization zero() {
        return file == null ? null : file.zeroOptimization();
    }

    private Layout layout(Devices devices) {
        Layout layout = given.layout;
        int ranks = devices.ranks();
        if (layout != null) {
            if (layout.worldSize() != ranks) {
                String option = given.devices == null ? "--num-gpus " + ranks : "--devices " + given.devices;
                throw new UserException("The layout " + layout + " has " + layout.worldSize() + " ranks, and " + option
                        + " makes " + ranks + ": give --devices " + devices.withRanks(layout.worldSize()) + ".");
            }
            return layout;
        }
        long unit = (long) tensorParallel * stages;
        if (ranks % unit != 0) {
            long fewer = ranks / unit * unit;
            throw new UserException(ranks + (ranks == 1 ? " rank does" : " ranks do") + " not divide into replicas of "
                    + (stages > 1 ? stages + " stages" : "")
                    + (stages > 1 && tensorParallel > 1 ? " of " : "")
                    + (tensorParallel > 1 ? tensorParallel + " tensor-parallel ranks" : "")
                    + ": use " + (fewer == 0 ? "" : fewer + " or ") + (fewer + unit) + " ranks"
                    + (ranks > Math.max(1, stages - 1) && ranks > 1
                            ? ", or give stages their own ranks, as in --layout \"" + example(ranks) + "\""
                            : "")
                    + ".");
        }
        return Layout.grid((int) (ranks / unit), tensorParallel, stages);
    }

    /// A layout of so many ranks that is near what was asked for.
    private String example(int ranks) {
        if (stages == 1) {
            int first = Math.min(tensorParallel, ranks - 1);
            return stage(0, first) + " | " + stage(first, ranks - first);
        }
        Shares shared = new Shares(ranks, stages);
        return IntStream.range(0, stages)
                .mapToObj(i -> stage((int) shared.start(i), (int) shared.size(i)))
                .collect(Collectors.joining(" | "));
    }

    private String stage(int first, int size) {
        List<Integer> ranks = IntStream.range(first, first + size).boxed().toList();
        boolean tensor = tensorParallel > 1;
        return new Layout.Stage(ranks, tensor ? 1 : size, tensor ? size : 1).toString();
    }

    private PipelineSchedule schedule(Layout layout) {
        Integer chunks = given.pipelineChunks;
        PipelineSchedule schedule = given.pipelineSchedule;
        if (schedule == null) {
            return chunks != null && chunks > 1
                    ? requireStages(layout, "--pipeline-chunks " + chunks, PipelineSchedule.INTERLEAVED)
                    : PipelineSchedule.ONE_F_ONE_B;
        }
        return schedule == PipelineSchedule.ONE_F_ONE_B
                ? schedule
                : requireStages(layout, "--pipeline-schedule " + schedule.word(), schedule);
    }

    private static PipelineSchedule requireStages(Layout layout, String option, PipelineSchedule schedule) {
        if (layout.stages().size() < 2) {
            throw new UserException(option + " needs a pipeline, and the layout " + layout
                    + " has one stage: give --pipeline-parallel 2 or more, or a --layout with several stages.");
        }
        return schedule;
    }

    private int chunks(PipelineSchedule schedule) {
        boolean interleaved = schedule == PipelineSchedule.INTERLEAVED;
        Integer chunks = given.pipelineChunks;
        if (chunks == null) {
            return interleaved ? DEFAULT_CHUNKS : 1;
        }
        Resolution.inRange("--pipeline-chunks", chunks, 1, 1 << 16);
        if (interleaved != (chunks > 1)) {
            throw new UserException("--pipeline-chunks " + chunks + " contradicts --pipeline-schedule "
                    + schedule.word() + ": "
                    + (interleaved
                            ? "stages take turns with 2 chunks or more."
                            : "several chunks a stage are for --pipeline-schedule interleaved."));
        }
        return chunks;
    }

    private boolean sequenceParallel(Layout layout) {
        boolean wanted = Boolean.TRUE.equals(given.sequenceParallel);
        if (wanted && layout.stages().stream().allMatch(stage -> stage.tensorParallel() == 1)) {
            throw new UserException("--sequence-parallel on is for tensor-parallel ranks, and the layout " + layout
                    + " has none: give --tensor-parallel 2 or more, or leave it out.");
        }
        return wanted;
    }

    private DType communicationDtype() {
        DType argument = given.communicationDtype;
        if (argument == DType.I32) {
            throw new UserException("--communication-dtype must be fp32, bf16 or fp16, and is int32.");
        }
        String word = file == null ? null : file.communicationDataType();
        DType json = switch (word) {
            case null -> null;
            case "fp32" -> DType.F32;
            case "fp16" -> DType.F16;
            default -> DType.BF16;
        };
        DType dtype = resolution.agree(argument, "--communication-dtype", json, "communication_data_type");
        return dtype == null ? DType.F32 : dtype;
    }

    private boolean overlap() {
        ZeroOptimization zero = zero();
        Boolean overlap = resolution.agree(
                given.overlap, "--overlap", zero == null ? null : zero.overlapComm(), "zero_optimization.overlap_comm");
        return overlap == null || overlap;
    }

    private int zeroStage() {
        ZeroOptimization zero = zero();
        Long argument = given.zeroStage == null ? null : (Long) given.zeroStage.longValue();
        Long stage = resolution.agree(
                argument, "--zero-stage", zero == null ? null : (Long) zero.stage(), "zero_optimization.stage");
        return (int) Resolution.inRange("--zero-stage", stage == null ? 1 : stage, 0, 3);
    }
}
