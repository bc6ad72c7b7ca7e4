package troika.plan;

/// A queue of a rank's instructions, which run in order; different lanes run at the same time.
public enum Lane {
    COMPUTE,
    /// Collectives within blocks, over tensor-parallel ranks.
    TENSOR,
    /// Weights and gradients of groups.
    COMMUNICATION,
    SEND,
    RECEIVE,
    UPLOAD,
    DOWNLOAD
}
