package troika.train.engine;

import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.plan.TensorSpec;

/// Where a device was in a program when it failed. Failures of cards show late, when somebody waits, and the
/// whole of a step may be one launch; so a lane notes, now and then, how far it has come.
final class Marks {
    /// A mark takes about 2 µs; instructions that move so much take hundreds.
    private static final long BYTES = 1L << 30;

    private static final int MOST_CALLS = 40;

    private final RankProgram program;
    private final List<String> blocks;
    private final int first;
    private final boolean[] marked;

    /// @param blocks names
    /// @param first the number of this program's first instruction; no two programs of a rank have a number in
    /// common
    Marks(RankProgram program, List<String> blocks, int first) {
        this(program, blocks, first, BYTES);
    }

    /// @param bytes that a lane's instructions move between two marks, at least
    Marks(RankProgram program, List<String> blocks, int first, long bytes) {
        this.program = program;
        this.blocks = blocks;
        this.first = first;
        marked = new boolean[program.instructions().size()];
        long[] moved = new long[Lane.values().length];
        for (Instruction instruction : program.instructions()) {
            int lane = instruction.lane().ordinal();
            moved[lane] += instruction.bytes();
            if (moved[lane] >= bytes) {
                marked[instruction.id()] = true;
                moved[lane] = 0;
            }
        }
    }

    /// Whether a mark of [#number] follows the instruction.
    boolean follows(Instruction instruction) {
        return marked[instruction.id()];
    }

    int number(Instruction instruction) {
        return first + instruction.id();
    }

    /// What a lane was at when it stopped, in words.
    ///
    /// @param last the last mark that it reached, which may be another program's or, as a step follows a step,
    /// the previous execution's
    String where(Lane lane, int last) {
        int from = last >= first && last < first + marked.length ? last - first + 1 : 0;
        int count = marked.length;
        // Where no mark follows, the lane may be in the next execution.
        List<Instruction> candidates = IntStream.range(from, from + count)
                .mapToObj(i -> program.instructions().get(i % count))
                .filter(instruction -> instruction.lane() == lane)
                .toList();
        int end = 0;
        while (end < candidates.size() && !marked[candidates.get(end).id()]) {
            end++;
        }
        candidates = candidates.subList(0, Math.min(end + 1, candidates.size()));
        if (candidates.isEmpty()) {
            return "outside the program";
        }
        Instruction begin = candidates.getFirst();
        return candidates.size() == 1
                ? "during " + name(begin) + " (" + calls(begin) + ")"
                : "between the beginning of " + name(begin) + " and the end of " + name(candidates.getLast());
    }

    /// Such as "FORWARD of block layers.3, microbatch 0".
    String name(Instruction instruction) {
        return instruction.kind()
                + (instruction.block() < 0 ? "" : " of block " + blocks.get(instruction.block()))
                + (instruction.group() < 0 ? "" : " of parameter group " + instruction.group())
                + (instruction.microbatch() < 0 ? "" : ", microbatch " + instruction.microbatch());
    }

    private String calls(Instruction instruction) {
        List<Call> calls = instruction.calls();
        return calls.stream().limit(MOST_CALLS).map(this::call).collect(Collectors.joining("; "))
                + (calls.size() > MOST_CALLS ? "; and " + (calls.size() - MOST_CALLS) + " more" : "");
    }

    /// Such as "Linear bf16 [64, 32], bf16 [96, 32] -> bf16 [64, 96]".
    String call(Call call) {
        return call.op().getClass().getSimpleName() + " " + tensors(call.inputs()) + " -> " + tensors(call.outputs());
    }

    private String tensors(List<Integer> ids) {
        return ids.stream()
                .filter(id -> id >= 0)
                .map(id -> program.tensors().get(id))
                .map(Marks::tensor)
                .collect(Collectors.joining(", "));
    }

    private static String tensor(TensorSpec tensor) {
        return tensor.dtype().name().toLowerCase(Locale.ROOT) + " " + tensor.shape();
    }
}
