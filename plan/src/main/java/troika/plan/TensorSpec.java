package troika.plan;

import troika.tensor.DType;
import troika.tensor.Shape;

/// A tensor at its fixed place in one of the rank's two arenas.
///
/// @param name for messages and for loading and saving
/// @param host whether it lies in the pinned host arena instead of the device's
/// @param offset bytes from the start of the arena
public record TensorSpec(int id, String name, Role role, boolean host, long offset, DType dtype, Shape shape) {
    /// What a tensor is for: the lines of the memory plan.
    public enum Role {
        WEIGHTS(true),
        MASTER_WEIGHTS(true),
        MOMENTS(true),
        GRADIENTS(true),
        /// Gradients that leave for their shards at once (ZeRO-2), and what communication needs of copies.
        GRADIENT_BUFFERS(false),
        /// Whole weights of a group while they are needed (ZeRO-3).
        GATHERED_WEIGHTS(false),
        /// Tokens, labels, positions, scalars, tables.
        INPUTS(true),
        CACHE(true),
        WORKSPACE(true),
        ACTIVATIONS(false);

        private final boolean persistent;

        Role(boolean persistent) {
            this.persistent = persistent;
        }

        /// Whether it keeps its content from one execution to the next.
        public boolean persistent() {
            return persistent;
        }
    }

    public long bytes() {
        return shape.elements() * dtype.bytes();
    }
}
