package troika.plan;

import troika.tensor.DType;

/// How the work of a layout is ordered and its state is kept.
///
/// @param zeroStage 0: everything replicated over data-parallel ranks; 1: optimizer states sharded; 2:
/// gradients too; 3: weights too (Rajbhandari et al. 2020)
/// @param schedule of a pipeline's microbatches
/// @param chunks runs of layers that each pipeline stage holds
/// @param sequence whether tensor-parallel ranks share norms and residuals by rows (Korthikanti et al.
/// 2022)
/// @param communication dtype in which gradients travel: F32, BF16 or F16
/// @param overlap false: every instruction waits for the one before it
/// @param prefetch how many blocks ahead of their use ZeRO-3 gathers weights
/// @param gatherOnce whether ZeRO-3 gathers a block's weights once a step and keeps them to their last use,
/// instead of once for each use
public record Parallelism(
        int zeroStage,
        PipelineSchedule schedule,
        int chunks,
        boolean sequence,
        DType communication,
        boolean overlap,
        int prefetch,
        boolean gatherOnce) {
    /// Blocks whose weights are under way while another computes.
    public static final int PREFETCH = 3;

    /// Data parallelism with a ZeRO stage, and the defaults of everything else.
    public static Parallelism zero(int stage) {
        return new Parallelism(stage, PipelineSchedule.ONE_F_ONE_B, 1, false, DType.F32, true, PREFETCH, false);
    }
}
