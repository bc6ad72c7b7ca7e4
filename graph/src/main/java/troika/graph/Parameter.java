package troika.graph;

import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.tensor.Shape;

/// A weight of the model, or the part of it that a tensor-parallel rank holds.
///
/// @param name unique in the model, such as "layers.3.attention.qkv"
/// @param portion what of the whole model's weight this is
/// @param decayed whether weight decay applies: matrices yes, norms no
/// @param initialDeviation the standard deviation of its normal initial values around 0; 0: all ones
/// @param copies the rows that other tensor-parallel ranks hold too
public record Parameter(String name, Portion portion, boolean decayed, double initialDeviation, List<Copy> copies) {
    /// Rows that several tensor-parallel ranks hold.
    ///
    /// @param rows of the rank's own tensor
    /// @param axis of the ranks over which their gradients are summed; null where each of the ranks computes the
    /// same gradient
    /// @param counted whether this rank is the one that counts them in the norm of gradients
    public record Copy(Range rows, @Nullable String axis, boolean counted) {}

    public Parameter {
        copies = List.copyOf(copies);
    }

    /// A weight that is held whole, by no tensor-parallel ranks.
    public Parameter(String name, Shape shape, boolean decayed, double initialDeviation) {
        this(name, Portion.all(shape), decayed, initialDeviation, List.of());
    }

    /// The shape of what the rank holds.
    public Shape shape() {
        return portion.shape();
    }

    public long elements() {
        return shape().elements();
    }
}
