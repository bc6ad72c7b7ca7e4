package troika.train.config;

import java.util.ArrayList;
import java.util.List;
import troika.plan.Layout;
import troika.plan.PipelineSchedule;
import troika.tensor.DType;
import troika.tensor.UserException;

/// How a run's work is shared among its ranks.
///
/// @param layout who holds what; its microbatch unit is the data-parallel size of the batch equation
/// @param zeroStage 0: nothing, 1: optimizer states, 2: gradients too, 3: weights too are sharded over the
/// data-parallel ranks of a stage
/// @param schedule of the pipeline, if there is one
/// @param chunks runs of layers that each stage holds: 1, or more with the interleaved schedule
/// @param sequenceParallel whether tensor-parallel ranks share the tokens between their products
/// @param communicationDtype of gradients on their way between ranks: F32, BF16 or F16
/// @param overlap whether communication goes on beside computation
/// @param prefetchElements of weights that ZeRO-3 gathers ahead of their use
/// @param liveElements of gathered weights that ZeRO-3 holds at once; a block at least
public record Parallelism(
        Layout layout,
        int zeroStage,
        PipelineSchedule schedule,
        int chunks,
        boolean sequenceParallel,
        DType communicationDtype,
        boolean overlap,
        long prefetchElements,
        long liveElements) {
    /// The same with another ZeRO stage.
    public Parallelism withZeroStage(int stage) {
        return new Parallelism(
                layout,
                stage,
                schedule,
                chunks,
                sequenceParallel,
                communicationDtype,
                overlap,
                prefetchElements,
                liveElements);
    }

    /// The same in another layout.
    public Parallelism withLayout(Layout other) {
        return new Parallelism(
                other,
                zeroStage,
                schedule,
                chunks,
                sequenceParallel,
                communicationDtype,
                overlap,
                prefetchElements,
                liveElements);
    }

    /// Reads what follows `--shares`, such as `1,1,0.6`.
    public static List<Double> shares(String text) {
        List<Double> shares = new ArrayList<>();
        for (String word : text.split(",", -1)) {
            if (!word.strip().matches("[0-9]{0,9}(\\.[0-9]{1,9})?|[0-9]{1,9}\\.") || word.isBlank()) {
                throw new UserException(
                        "--shares must be a number for each rank, such as 1,1,0.6, and is \"" + text + "\".");
            }
            shares.add(Double.parseDouble(word.strip()));
        }
        return shares;
    }

    /// Reads what follows `--pipeline-schedule`.
    public static PipelineSchedule schedule(String word) {
        return Words.of("--pipeline-schedule", word, PipelineSchedule.values(), PipelineSchedule::word);
    }

    /// Blocks that ZeRO-3 gathers ahead of their use.
    ///
    /// @param elements of the largest block that is gathered often: a decoder layer
    public int prefetchBlocks(long elements) {
        long ahead = Math.ceilDiv(prefetchElements, Math.max(1, elements));
        long live = Math.max(1, liveElements / Math.max(1, elements));
        return (int) Math.min(Math.min(ahead, live - 1), Integer.MAX_VALUE);
    }
}
