package troika.train.engine;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import troika.graph.Op;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.RankProgram;
import troika.plan.TensorSpec;
import troika.tensor.DType;

/// Which bytes of a rank's device arena are dead when: a content that a step writes anew dies with the last call, in
/// issue order, that reads it. Worked out from the operands alone, byte range by byte range.
final class Cells {
    /// A content of a range of bytes: from the instruction that overwrites it to the last that reads or changes it.
    ///
    /// @param users the instructions that must have run before it is dead
    record Content(long start, long end, DType dtype, Set<Integer> users) {}

    private final Map<Integer, List<Content>> byUser = new HashMap<>();

    Cells(RankProgram program) {
        TreeSet<Long> bounds = new TreeSet<>();
        for (TensorSpec tensor : program.tensors()) {
            if (!tensor.host() && tensor.bytes() > 0) {
                bounds.add(tensor.offset());
                bounds.add(tensor.offset() + tensor.bytes());
            }
        }
        Map<Long, List<Access>> accesses = new HashMap<>();
        for (Instruction instruction : program.instructions()) {
            for (Call call : instruction.calls()) {
                Map<Long, Access> own = new HashMap<>();
                // An output that is an input too, or is added to, is changed, not begun.
                boolean adds = call.op() instanceof Op.Accumulating op && op.accumulate();
                for (int id : call.inputs()) {
                    note(program, bounds, id, instruction.id(), own, true);
                }
                for (int i = 0; i < call.outputs().size(); i++) {
                    boolean reads = (adds && i == 0) || readsItsOutputs(call);
                    note(program, bounds, call.outputs().get(i), instruction.id(), own, reads);
                }
                own.forEach((start, access) ->
                        accesses.computeIfAbsent(start, _ -> new ArrayList<>()).add(access));
            }
        }
        accesses.forEach((start, list) -> contents(start, bounds.higher(start), list));
    }

    private static boolean readsItsOutputs(Call call) {
        return switch (call.op()) {
            case Op.AdamW _, Op.AllReduce _, Op.Add _ -> true;
            default -> false;
        };
    }

    private record Access(int instruction, DType dtype, boolean reads) {}

    private static void note(
            RankProgram program, TreeSet<Long> bounds, int id, int instruction, Map<Long, Access> own, boolean reads) {
        if (id < 0 || program.tensors().get(id).host()) {
            return;
        }
        TensorSpec tensor = program.tensors().get(id);
        long end = tensor.offset() + tensor.bytes();
        for (long start : bounds.subSet(tensor.offset(), end)) {
            own.merge(
                    start,
                    new Access(instruction, tensor.dtype(), reads),
                    (a, b) -> new Access(instruction, a.dtype(), a.reads() || b.reads()));
        }
    }

    private void contents(long start, long end, List<Access> accesses) {
        if (accesses.getFirst().reads()) {
            return; // It comes from the step before: weights, moments, tables, padding.
        }
        Set<Integer> users = new HashSet<>();
        DType dtype = accesses.getFirst().dtype();
        for (Access access : accesses) {
            if (!access.reads() && !users.isEmpty()) {
                // Where one instruction ends a content and begins the next, there is no time in between.
                if (!users.contains(access.instruction())) {
                    add(new Content(start, end, dtype, users));
                }
                users = new HashSet<>();
            }
            dtype = access.dtype();
            users.add(access.instruction());
        }
        add(new Content(start, end, dtype, users));
    }

    private void add(Content content) {
        content.users()
                .forEach(user ->
                        byUser.computeIfAbsent(user, _ -> new ArrayList<>()).add(content));
    }

    /// The contents that this instruction makes or uses.
    List<Content> of(int instruction) {
        return byUser.getOrDefault(instruction, List.of());
    }
}
