package troika.plan;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import troika.graph.Op;
import troika.tensor.DType;
import troika.tensor.Shape;

/// A rank's program written by hand, for the simulator: its tensors are a square matrix of ones that a product
/// reads and writes, and what a test adds.
final class HandMade {
    /// Products of this many rows and columns take a unit of time at as many operations a second.
    static final int SIDE = 100;

    static final double UNIT_FLOPS = 2.0 * SIDE * SIDE * SIDE;

    private final int rank;
    private final List<RankProgram.Axis> axes = new ArrayList<>();
    private final List<TensorSpec> tensors = new ArrayList<>();
    private final List<Instruction> instructions = new ArrayList<>();

    HandMade(int rank) {
        this.rank = rank;
        tensor(false, SIDE * SIDE);
    }

    int rank() {
        return rank;
    }

    static StepProgram program(HandMade... ranks) {
        return program(List.of(ranks));
    }

    static StepProgram program(List<HandMade> ranks) {
        return new StepProgram(
                "train", List.of(), ranks.stream().map(HandMade::build).toList());
    }

    private RankProgram build() {
        long bytes = 4L * SIDE * SIDE * 1000;
        return new RankProgram(rank, bytes, bytes, tensors, axes, instructions);
    }

    void axis(String name, List<Integer> ranks) {
        axes.add(new RankProgram.Axis(name, ranks));
    }

    /// A tensor of fp32 elements.
    int tensor(boolean host, long elements) {
        Shape shape = tensors.isEmpty() ? new Shape(SIDE, SIDE) : new Shape(elements);
        tensors.add(new TensorSpec(tensors.size(), "t", TensorSpec.Role.INPUTS, host, 0, DType.F32, shape));
        return tensors.size() - 1;
    }

    /// An instruction of some products.
    int products(int count, Integer... after) {
        Call product = new Call(new Op.Linear(), List.of(0, 0), List.of(0));
        return emit(Lane.COMPUTE, List.of(after), List.of(), Collections.nCopies(count, product));
    }

    int call(Lane lane, Op op, List<Integer> inputs, List<Integer> outputs, Integer... after) {
        return emit(lane, List.of(after), List.of(), List.of(new Call(op, inputs, outputs)));
    }

    int emit(Lane lane, List<Integer> after, List<Integer> afterPrevious, List<Call> calls) {
        int id = instructions.size();
        instructions.add(
                new Instruction(id, Instruction.Kind.FORWARD, lane, -1, -1, -1, after, afterPrevious, calls, 0, 0));
        return id;
    }
}
