package troika.graph;

import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import troika.tensor.Shape;

/// A model, or what one tensor-parallel rank holds of it: blocks that run one behind the other, and the tables
/// that they read.
///
/// @param axes the groups of tensor-parallel ranks that only some of its weights' gradients are summed over
/// ([Parameter.Copy#axis]), by axis: their indices, this rank's among them
public record Model(List<Block> blocks, List<Constant> constants, Map<String, List<Integer>> axes) {
    /// An fp32 table that traces use as a global tensor of the same name.
    ///
    /// @param values its elements, row-major; computed when asked for
    public record Constant(String name, Shape shape, Supplier<float[]> values) {}

    public Model {
        blocks = List.copyOf(blocks);
        constants = List.copyOf(constants);
        axes = Map.copyOf(axes);
    }

    /// The number of weights of the whole model, those used twice counted once.
    public long parameterCount() {
        return blocks.stream()
                .flatMap(block -> block.parameters().values().stream())
                .distinct()
                .mapToLong(parameter -> parameter.portion().whole().elements())
                .sum();
    }
}
