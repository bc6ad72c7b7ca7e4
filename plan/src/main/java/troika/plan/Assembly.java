package troika.plan;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import troika.graph.Op;
import troika.tensor.Shape;

/// The last pass: tensors get their places and instructions their dependencies and costs.
final class Assembly {
    private Assembly() {}

    /// @param axes the ranks of each axis that collectives may name
    /// @param overlap false: every instruction waits for the one before it
    static RankProgram program(
            RankBuilder builder, Placement places, long deviceBytes, Map<String, List<Integer>> axes, boolean overlap) {
        List<TensorSpec> tensors = new ArrayList<>();
        for (RankBuilder.Slice slice : builder.tensors()) {
            RankBuilder.Buffer buffer = builder.buffers().get(slice.buffer());
            tensors.add(new TensorSpec(
                    tensors.size(),
                    slice.name(),
                    buffer.role(),
                    buffer.host(),
                    places.offset(slice.buffer()) + slice.offset(),
                    slice.dtype(),
                    slice.shape()));
        }
        Dependencies dependencies = new Dependencies(builder, places);
        List<Instruction> instructions = new ArrayList<>();
        for (RankBuilder.Draft draft : builder.drafts()) {
            int id = instructions.size();
            long flops = 0;
            long bytes = 0;
            for (Call call : draft.calls()) {
                List<TensorSpec> inputs = specs(tensors, call.inputs());
                List<TensorSpec> outputs = specs(tensors, call.outputs());
                flops += call.op().flops(shapes(inputs), shapes(outputs));
                bytes += inputs.stream().mapToLong(TensorSpec::bytes).sum()
                        + outputs.stream().mapToLong(TensorSpec::bytes).sum();
            }
            instructions.add(new Instruction(
                    id,
                    draft.kind(),
                    draft.lane(),
                    draft.block(),
                    draft.group(),
                    draft.microbatch(),
                    overlap ? dependencies.after(id) : behind(builder, dependencies, id),
                    dependencies.afterPrevious(id),
                    draft.calls(),
                    flops,
                    bytes));
        }
        return new RankProgram(
                builder.rank(), deviceBytes, places.hostBytes(), tensors, used(builder, axes), instructions);
    }

    /// What an instruction waits for, and the one before it.
    private static List<Integer> behind(RankBuilder builder, Dependencies dependencies, int id) {
        Set<Integer> after = new TreeSet<>(dependencies.after(id));
        if (id > 0
                && builder.drafts().get(id - 1).lane()
                        != builder.drafts().get(id).lane()) {
            after.add(id - 1);
        }
        return List.copyOf(after);
    }

    private static List<RankProgram.Axis> used(RankBuilder builder, Map<String, List<Integer>> axes) {
        Set<String> names = new TreeSet<>();
        for (RankBuilder.Draft draft : builder.drafts()) {
            for (Call call : draft.calls()) {
                switch (call.op()) {
                    case Op.AllReduce op -> names.add(op.axis());
                    case Op.ReduceScatter op -> names.add(op.axis());
                    case Op.AllGather op -> names.add(op.axis());
                    default -> {}
                }
            }
        }
        return names.stream()
                .map(name -> new RankProgram.Axis(name, axes.getOrDefault(name, List.of())))
                .toList();
    }

    private static List<TensorSpec> specs(List<TensorSpec> tensors, List<Integer> ids) {
        return ids.stream().filter(id -> id >= 0).map(tensors::get).toList();
    }

    private static List<Shape> shapes(List<TensorSpec> specs) {
        return specs.stream().map(TensorSpec::shape).toList();
    }
}
