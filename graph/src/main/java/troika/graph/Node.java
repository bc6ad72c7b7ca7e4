package troika.graph;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// One op applied to values, in the order of the op's documentation. An optional input that is absent is
/// null.
public record Node(Op op, List<@Nullable Value> inputs, List<Value> outputs) {
    public Node {
        inputs = Collections.unmodifiableList(new ArrayList<>(inputs));
        outputs = List.copyOf(outputs);
    }

    /// An input that must be there.
    Value input(int i) {
        Value value = inputs.get(i);
        if (value == null) {
            throw new IllegalStateException(op + " lacks input " + i);
        }
        return value;
    }
}
