package troika.train.engine;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import troika.graph.Op;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.RankProgram;
import troika.plan.TensorSpec;
import troika.tensor.Memory;

/// What wrappers around a rank's kernels and communicator must see when it executes a program: worked out
/// from the
/// program alone, by a table that says which method an op is and in which order it takes its operands.
final class Expectation {
    /// `i0` is the first input, `o0` the first output; other words are components of the op.
    private static final Map<String, String> METHODS = Map.ofEntries(
            Map.entry("Embedding", "embedding i0 i1 first o0"),
            Map.entry("EmbeddingBackward", "embeddingBackward i0 i1 first o0 accumulate"),
            Map.entry("RmsNorm", "rmsNorm i0 i1 epsilon o0 o1"),
            Map.entry("RmsNormBackward", "rmsNormBackward i0 i1 i2 i3 i4 o1 o0 o2 accumulate"),
            Map.entry("Linear", "linear i0 i1 i2 o0"),
            Map.entry("LinearBackwardInput", "linearBackwardInput i0 i1 o0"),
            Map.entry("LinearBackwardWeight", "linearBackwardWeight i0 i1 o0 accumulate"),
            Map.entry("Rope", "rope i0 i1 i2 heads headSize inverse"),
            Map.entry("Attention", "attention shape i0 i1 o0 o1"),
            Map.entry("AttentionBackward", "attentionBackward shape i0 i1 i2 i3 i4 o0"),
            Map.entry("AttentionDecode", "attentionDecode shape i0 i1 o0 o1 o2"),
            Map.entry("SwiGlu", "swiglu i0 o0"),
            Map.entry("SwiGluBackward", "swigluBackward i0 i1 o0 o1"),
            Map.entry("CrossEntropy", "crossEntropy i0 i1 i2 o0 gradient accumulate"),
            Map.entry("CrossEntropyPart", "crossEntropyPart i0 i1 first o0"),
            Map.entry("CrossEntropyWhole", "crossEntropyWhole i0 i1 i2 i3 first o0 gradient accumulate"),
            Map.entry("SumSquares", "sumSquares i0 o0 accumulate"),
            Map.entry("ClipFactor", "clipFactor i0 i1 i2 maxNorm o0"),
            Map.entry("AdamW", "adamw o0 o1 o2 i0 o3 i1 i2 decayed beta1 beta2 epsilon weightDecay first"),
            Map.entry("Zero", "zero o0"),
            Map.entry("Copy", "copy i0 o0"),
            Map.entry("Cast", "cast i0 o0"),
            Map.entry("Add", "add i0 o0"),
            Map.entry("AllReduce", "allReduce o0"),
            Map.entry("ReduceScatter", "reduceScatter i0 o0"),
            Map.entry("AllGather", "allGather i0 o0"));

    private Expectation() {}

    /// The calls in issue order.
    /// @param arenas of the device and of the host
    static List<Recording.Seen> of(RankProgram program, List<Memory> arenas) {
        List<Recording.Seen> expected = new ArrayList<>();
        for (Instruction instruction : program.instructions()) {
            for (Call call : instruction.calls()) {
                expected.add(new Recording.Seen(
                        instruction.lane().name().toLowerCase(Locale.ROOT), words(program, arenas, call)));
            }
        }
        return expected;
    }

    private static String words(RankProgram program, List<Memory> arenas, Call call) {
        String name = call.op().getClass().getSimpleName();
        String[] pattern = String.valueOf(METHODS.get(name)).split(" ", -1);
        StringBuilder words = new StringBuilder(pattern[0]);
        for (int i = 1; i < pattern.length; i++) {
            String word = pattern[i];
            words.append(' ');
            if (word.matches("[io][0-9]")) {
                List<Integer> side = word.charAt(0) == 'i' ? call.inputs() : call.outputs();
                int index = word.charAt(1) - '0';
                int tensor = index < side.size() ? side.get(index) : -1;
                words.append(tensor < 0 ? "null" : address(program.tensors().get(tensor), arenas));
            } else {
                words.append(component(call.op(), word));
            }
        }
        return words.toString();
    }

    private static String address(TensorSpec tensor, List<Memory> arenas) {
        Memory arena = arenas.get(tensor.host() ? 1 : 0);
        return tensor.dtype() + "" + tensor.shape() + "@" + (arena.address() + tensor.offset());
    }

    private static String component(Op op, String name) {
        try {
            var accessor = op.getClass().getDeclaredMethod(name);
            accessor.setAccessible(true);
            return String.valueOf(accessor.invoke(op));
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(op + " has no " + name, e);
        }
    }
}
