package troika.graph;

import java.util.List;
import java.util.function.Supplier;
import troika.tensor.Shape;

/// A model: blocks that run one behind the other, and the tables that they read.
public record Model(List<Block> blocks, List<Constant> constants) {
    /// An fp32 table that traces use as a global tensor of the same name.
    ///
    /// @param values its elements, row-major; computed when asked for
    public record Constant(String name, Shape shape, Supplier<float[]> values) {}

    public Model {
        blocks = List.copyOf(blocks);
        constants = List.copyOf(constants);
    }

    /// The number of weights, those used twice counted once.
    public long parameterCount() {
        return blocks.stream()
                .flatMap(block -> block.parameters().values().stream())
                .distinct()
                .mapToLong(Parameter::elements)
                .sum();
    }
}
