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
        for (int id = 0; id < tensors.size(); id++) {
            TensorSpec tensor = tensors.get(id);
            long bytes = tensor.host() ? hostBytes : deviceBytes;
            require(tensor.id() == id, "tensor %s is number %d of rank %d's", tensor, id, rank);
            require(
                    tensor.offset() >= 0 && tensor.bytes() <= bytes - tensor.offset(),
                    "%s of rank %d does not lie in its arena",
                    tensor,
                    rank);
        }
        for (int id = 0; id < instructions.size(); id++) {
            Instruction instruction = instructions.get(id);
            require(instruction.id() == id, "instruction %s is number %d of rank %d's", instruction, id, rank);
            for (int needed : instruction.after()) {
                require(needed >= 0 && needed < id, "%s (%d) waits for %d", instruction, id, needed);
            }
            for (int needed : instruction.afterPrevious()) {
                // An event tells only its latest record, so what waits for the previous execution must come first.
                require(
                        needed >= id && needed < instructions.size(),
                        "%s (%d) waits for the previous %d",
                        instruction,
                        id,
                        needed);
            }
            for (Call call : instruction.calls()) {
                for (int tensor : call.inputs()) {
                    require(tensor >= -1 && tensor < tensors.size(), "%s reads tensor %d", instruction, tensor);
                }
                for (int tensor : call.outputs()) {
                    require(tensor >= 0 && tensor < tensors.size(), "%s writes tensor %d", instruction, tensor);
                }
            }
        }
    }

    private static void require(boolean holds, String complaint, Object... of) {
        if (!holds) {
            throw new IllegalArgumentException(String.format(complaint, of));
        }
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
