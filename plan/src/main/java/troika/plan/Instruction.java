package troika.plan;

import java.util.List;

/// What one lane does at one point of the step: a fixed list of calls, started when its dependencies are
/// done.
///
/// @param id its index in the rank's issue order
/// @param block index of the block it belongs to, or -1
/// @param group index of the parameter group, or -1
/// @param microbatch the rank's own count, or -1
/// @param after instructions of the same execution that must be done; those before it in its lane are
/// implied
/// @param afterPrevious instructions of the previous execution that must be done
/// @param flops of its matrix products
/// @param bytes read and written by its calls
public record Instruction(
        int id,
        Kind kind,
        Lane lane,
        int block,
        int group,
        int microbatch,
        List<Integer> after,
        List<Integer> afterPrevious,
        List<Call> calls,
        long flops,
        long bytes) {
    /// The step's vocabulary.
    public enum Kind {
        /// Tokens, labels, positions and the step's scalars reach the device.
        INPUT,
        FORWARD,
        /// A second forward, in place of stored activations.
        RECOMPUTE,
        BACKWARD_INPUT,
        BACKWARD_WEIGHT,
        /// Gradients of a group are summed over data-parallel ranks.
        REDUCE,
        /// The gradient's norm and the clip factor.
        NORM,
        /// A group's weights change.
        UPDATE,
        /// Weights of a group reach all ranks.
        GATHER,
        /// What crosses from one pipeline stage to another.
        SEND,
        RECEIVE,
        /// Loss and norm, or logits, reach the host.
        REPORT
    }

    public Instruction {
        after = List.copyOf(after);
        afterPrevious = List.copyOf(afterPrevious);
        calls = List.copyOf(calls);
    }

    @Override
    public String toString() {
        return kind
                + (block < 0 ? "" : " block " + block)
                + (group < 0 ? "" : " group " + group)
                + (microbatch < 0 ? "" : " microbatch " + microbatch);
    }
}
