package troika.train.engine;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import troika.graph.Op;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.plan.TensorSpec;
import troika.tensor.DType;
import troika.tensor.Shape;

/// A rank's program written by hand: F32 tensors by name, instructions of one call.
final class Handmade {
    private final int rank;
    private final List<TensorSpec> tensors = new ArrayList<>();
    private final Map<String, Integer> ids = new HashMap<>();
    private final List<RankProgram.Axis> axes = new ArrayList<>();
    private final List<Instruction> instructions = new ArrayList<>();
    private long bytes;

    Handmade(int rank) {
        this.rank = rank;
    }

    Handmade tensor(String name, long elements) {
        ids.put(name, tensors.size());
        tensors.add(new TensorSpec(
                tensors.size(), name, TensorSpec.Role.ACTIVATIONS, false, bytes, DType.F32, new Shape(elements)));
        bytes += (4 * elements + 63) / 64 * 64;
        return this;
    }

    Handmade axis(String name, Integer... ranks) {
        axes.add(new RankProgram.Axis(name, List.of(ranks)));
        return this;
    }

    /// Adds an instruction of a call.
    ///
    /// @param after ids of instructions that it waits for
    Handmade call(
            Instruction.Kind kind,
            Lane lane,
            int block,
            Op op,
            List<String> inputs,
            List<String> outputs,
            Integer... after) {
        Call call = new Call(
                op,
                inputs.stream().map(ids::get).toList(),
                outputs.stream().map(ids::get).toList());
        instructions.add(new Instruction(
                instructions.size(), kind, lane, block, -1, -1, List.of(after), List.of(), List.of(call), 0, 0));
        return this;
    }

    RankProgram program() {
        return new RankProgram(rank, Math.max(bytes, 64), 64, tensors, axes, instructions);
    }
}
