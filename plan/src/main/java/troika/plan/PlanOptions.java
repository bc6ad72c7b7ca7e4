package troika.plan;

import troika.tensor.DType;

/// What the compiler needs to know of a run, the model and the layout apart.
///
/// @param batch sequences of a step, over all ranks
/// @param accumulation the batch is split into accumulation × [Layout#microbatchUnit] microbatches
/// @param recompute whether a decoder layer's activations are computed again in the backward instead of
/// stored
/// @param rebuild whether results of norms and SwiGLUs are made again in the backward instead of stored
/// @param packed whether documents may start anywhere in a sequence
/// @param moments the dtype of AdamW's moments, F32 or BF16
/// @param maxGradNorm 0: no clipping
/// @param workspaceBytes of each stream that runs kernels
/// @param logitsAtATime rows × vocabulary of the loss head's chunks, about
public record PlanOptions(
        DType dtype,
        int sequence,
        int batch,
        int accumulation,
        Parallelism parallelism,
        boolean recompute,
        boolean rebuild,
        boolean packed,
        DType moments,
        float beta1,
        float beta2,
        float epsilon,
        float weightDecay,
        float maxGradNorm,
        long workspaceBytes,
        long logitsAtATime) {}
