package troika.plan;

import java.util.EnumSet;
import java.util.Set;

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
    DOWNLOAD;

    static final Set<Lane> BETWEEN_RANKS = EnumSet.of(TENSOR, COMMUNICATION, SEND, RECEIVE);

    /// Whether it moves data between ranks.
    public boolean betweenRanks() {
        return BETWEEN_RANKS.contains(this);
    }
}
