package troika.plan;

import java.util.List;
import java.util.function.Supplier;

/// What one rank does: instructions in the order in which they are issued, each to its lane.
///
/// @param deviceBytes size of the device arena
/// @param hostBytes size of the pinned host arena
/// @param tensors by id
/// @param axes that its collectives name; Send and Receive need none
public record RankProgram(
        int rank,
        long deviceBytes,
        long hostBytes,
        List<TensorSpec> tensors,
        List<Axis> axes,
        List<Instruction> instructions) {
    /// A group of ranks that have collectives together.
    ///
    /// @param ranks of the world in the order of the group, this one among them
    public record Axis(String name, List<Integer> ranks) {
        public Axis {
            ranks = List.copyOf(ranks);
        }
    }

    public RankProgram {
        axes = List.copyOf(axes);
        tensors = List.copyOf(tensors);
        instructions = List.copyOf(instructions);
        for (int id = 0; id < tensors.size(); id++) {
            TensorSpec tensor = tensors.get(id);
            long bytes = tensor.host() ? hostBytes : deviceBytes;
            require(tensor.id() == id, () -> "the id of " + tensor + " is not its index");
            require(
                    tensor.offset() >= 0 && tensor.bytes() <= bytes - tensor.offset(),
                    () -> tensor + " does not lie in its arena of " + bytes + " bytes");
        }
        for (int id = 0; id < instructions.size(); id++) {
            check(instructions.get(id), id, tensors.size(), instructions.size());
        }
    }

    private static void check(Instruction instruction, int id, int tensors, int instructions) {
        require(instruction.id() == id, () -> "the id of " + instruction + " is not its index, " + id);
        for (int needed : instruction.after()) {
            require(needed >= 0 && needed < id, () -> instruction + " (" + id + ") waits for " + needed);
        }
        for (int needed : instruction.afterPrevious()) {
            // An event tells only its latest record, so what waits for the previous execution must come
            // first.
            require(
                    needed >= id && needed < instructions,
                    () -> instruction + " (" + id + ") waits for the previous " + needed);
        }
        for (Call call : instruction.calls()) {
            for (int tensor : call.inputs()) {
                require(tensor >= -1 && tensor < tensors, () -> instruction + " reads tensor " + tensor);
            }
            for (int tensor : call.outputs()) {
                require(tensor >= 0 && tensor < tensors, () -> instruction + " writes tensor " + tensor);
            }
        }
    }

    private static void require(boolean holds, Supplier<String> complaint) {
        if (!holds) {
            throw new IllegalArgumentException(complaint.get());
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
