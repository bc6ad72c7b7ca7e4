package troika.plan;

import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;

/// What lanes and declared dependencies say about the order of two consecutive executions of a program, and whether
/// it is enough. Independent of how the dependencies were derived.
final class Order {
    private final RankProgram program;
    private final int count;
    /// By instruction of both executions: those that are done before it starts.
    private final List<BitSet> before = new ArrayList<>();

    Order(RankProgram program) {
        this.program = program;
        this.count = program.instructions().size();
        for (int i = 0; i < 2 * count; i++) {
            BitSet own = new BitSet();
            Instruction at = instruction(i);
            for (int j = 0; j < i; j++) {
                boolean sameStep = j / count == i / count;
                if (instruction(j).lane() == at.lane()
                        || (sameStep ? at.after() : at.afterPrevious()).contains(j % count)) {
                    own.set(j);
                    own.or(before.get(j));
                }
            }
            before.add(own);
        }
    }

    private Instruction instruction(int i) {
        return program.instructions().get(i % count);
    }

    /// Pairs that touch the same bytes, at least one of them writing, and that nothing orders.
    List<String> races() {
        List<String> races = new ArrayList<>();
        for (int i = 0; i < 2 * count; i++) {
            for (int j = 0; j < i; j++) {
                if (!before.get(i).get(j) && conflict(instruction(j), instruction(i))) {
                    races.add(j + " " + instruction(j) + " and " + i + " " + instruction(i));
                }
            }
        }
        return races;
    }

    private boolean conflict(Instruction a, Instruction b) {
        for (Call first : a.calls()) {
            for (Call second : b.calls()) {
                if (overlap(first.outputs(), second.outputs())
                        || overlap(first.outputs(), second.inputs())
                        || overlap(first.inputs(), second.outputs())) {
                    return true;
                }
            }
        }
        return false;
    }

    private boolean overlap(List<Integer> a, List<Integer> b) {
        for (int i : a) {
            for (int j : b) {
                if (i >= 0
                        && j >= 0
                        && overlap(program.tensors().get(i), program.tensors().get(j))) {
                    return true;
                }
            }
        }
        return false;
    }

    private static boolean overlap(TensorSpec a, TensorSpec b) {
        return a.host() == b.host()
                && a.bytes() > 0
                && b.bytes() > 0
                && a.offset() < b.offset() + b.bytes()
                && b.offset() < a.offset() + a.bytes();
    }
}
