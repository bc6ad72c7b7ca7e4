package troika.train.config;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.plan.Layout;
import troika.plan.Parallelism;
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
/// @param prefetchElements of weights that ZeRO-3 gathers ahead of their use; null: [Parallelism#PREFETCH] blocks
/// @param liveElements of gathered weights that ZeRO-3 may hold at once, those in use and those ahead; it holds a
/// block at least, and gathers fewer ahead than it otherwise would where more would not be allowed
public record Sharing(
        Layout layout,
        int zeroStage,
        PipelineSchedule schedule,
        int chunks,
        boolean sequenceParallel,
        DType communicationDtype,
        boolean overlap,
        @Nullable Long prefetchElements,
        long liveElements) {
    static final long DEFAULT_LIVE = 1_000_000_000;

    /// The same with another ZeRO stage.
    public Sharing withZeroStage(int stage) {
        return with(layout, stage, overlap);
    }

    /// The same with communication in between.
    public Sharing withoutOverlap() {
        return with(layout, zeroStage, false);
    }

    /// The same in another layout.
    public Sharing withLayout(Layout other) {
        return with(other, zeroStage, overlap);
    }

    private Sharing with(Layout otherLayout, int otherStage, boolean overlaps) {
        return new Sharing(
                otherLayout,
                otherStage,
                schedule,
                chunks,
                sequenceParallel,
                communicationDtype,
                overlaps,
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

    /// What the compiler must know of it, the layout apart.
    ///
    /// ZeRO-3 gathers the weights of a pipeline's stage once a step, rather than for every use, where they may all
    /// be live.
    ///
    /// @param layer elements of a decoder layer's weights, of the whole model
    /// @param model elements of all weights
    /// @param accumulation microbatches of each data-parallel rank
    public Parallelism parallelism(long layer, long model, int accumulation) {
        int stages = layout.stages().size();
        boolean gatherOnce =
                zeroStage == 3 && stages > 1 && accumulation > 1 && Math.ceilDiv(model, stages) <= liveElements;
        return new Parallelism(
                zeroStage,
                schedule,
                chunks,
                sequenceParallel,
                communicationDtype,
                overlap,
                prefetchBlocks(layer),
                gatherOnce);
    }

    /// Blocks that ZeRO-3 gathers ahead of their use.
    int prefetchBlocks(long layer) {
        long elements = Math.max(1, layer);
        long ahead = prefetchElements == null ? Parallelism.PREFETCH : Math.ceilDiv(prefetchElements, elements);
        long besides = Math.max(1, liveElements / elements) - 1;
        return (int) Math.min(Math.min(ahead, besides), Integer.MAX_VALUE);
    }
}
