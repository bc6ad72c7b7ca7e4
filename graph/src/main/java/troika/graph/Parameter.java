package troika.graph;

import troika.tensor.Shape;

/// A weight of the model.
///
/// @param name unique in the model, such as "layers.3.attention.qkv"
/// @param decayed whether weight decay applies: matrices yes, norms no
/// @param initialDeviation the standard deviation of its normal initial values around 0; 0: all ones
public record Parameter(String name, Shape shape, boolean decayed, double initialDeviation) {
    public long elements() {
        return shape.elements();
    }
}
