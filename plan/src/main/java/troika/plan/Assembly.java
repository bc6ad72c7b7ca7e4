package troika.plan;

import java.util.ArrayList;
import java.util.List;
import troika.tensor.Shape;

/// The last pass: tensors get their places and instructions their dependencies and costs.
final class Assembly {
    private Assembly() {}

    static RankProgram program(RankBuilder builder, Placement places, long deviceBytes) {
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
                    dependencies.after(id),
                    dependencies.afterPrevious(id),
                    draft.calls(),
                    flops,
                    bytes));
        }
        return new RankProgram(builder.rank(), deviceBytes, places.hostBytes(), tensors, List.of(), instructions);
    }

    private static List<TensorSpec> specs(List<TensorSpec> tensors, List<Integer> ids) {
        return ids.stream().filter(id -> id >= 0).map(tensors::get).toList();
    }

    private static List<Shape> shapes(List<TensorSpec> specs) {
        return specs.stream().map(TensorSpec::shape).toList();
    }
}
