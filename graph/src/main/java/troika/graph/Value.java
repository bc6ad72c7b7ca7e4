package troika.graph;

import org.jspecify.annotations.Nullable;
import troika.tensor.DType;
import troika.tensor.Shape;

/// A symbolic tensor of a traced block: no memory yet, only what it will be.
///
/// @param id its index among the values of its trace
/// @param kind where it lives; the name says which
/// @param base the value whose memory it shares (in-place results, row slices), or null where it has its
/// own
/// @param offset elements from the start of `base`
public record Value(
        int id,
        Kind kind,
        String name,
        DType dtype,
        Shape shape,
        @Nullable Value base,
        long offset) {
    /// Where a value lives.
    public enum Kind {
        /// Made by an op of the block.
        LOCAL,
        /// The block's input, made by the block before it.
        BLOCK_INPUT,
        /// The gradient of the block's output, made by the block behind it.
        OUTPUT_GRADIENT,
        /// A weight, by its name within the block.
        PARAMETER,
        /// The fp32 gradient of a weight, by the weight's name.
        PARAMETER_GRADIENT,
        /// A tensor of the microbatch or of the whole step, by name: tokens, labels, positions, loss, …
        GLOBAL,
        /// A tensor that belongs to the block and outlives the step, by name: the key-value cache.
        STATE
    }

    /// The value whose memory this one lies in, itself where it shares none.
    public Value root() {
        Value value = this;
        while (value.base != null) {
            value = value.base;
        }
        return value;
    }

    /// Elements from the start of the root's memory.
    public long rootOffset() {
        return base == null ? 0 : offset + base.rootOffset();
    }

    @Override
    public String toString() {
        return name + "#" + id;
    }
}
