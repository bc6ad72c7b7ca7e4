package troika.plan;

import java.util.List;
import troika.graph.Op;

/// One kernel launch or collective on tensors of the rank's table.
///
/// @param inputs tensor ids in the order of the op's documentation; -1 where an optional input is absent
/// @param outputs tensor ids
public record Call(Op op, List<Integer> inputs, List<Integer> outputs) {
    public Call {
        inputs = List.copyOf(inputs);
        outputs = List.copyOf(outputs);
    }
}
