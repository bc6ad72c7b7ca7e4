package troika.plan;

import java.util.List;

/// What one rank does: instructions in the order in which they are issued, each to its lane.
///
/// @param deviceBytes size of the device arena @param hostBytes size of the pinned host arena
/// @param tensors by id
public record RankProgram(
        int rank, long deviceBytes, long hostBytes, List<TensorSpec> tensors, List<Instruction> instructions) {
    public RankProgram {
        tensors = List.copyOf(tensors);
        instructions = List.copyOf(instructions);
    }

    /// The tensor of that name; names of persistent tensors are unique.
    public TensorSpec tensor(String name) {
        for (TensorSpec tensor : tensors) {
            if (tensor.name().equals(name)) {
                return tensor;
            }
        }
        throw new IllegalArgumentException("the program of rank " + rank + " has no tensor " + name);
    }
}
