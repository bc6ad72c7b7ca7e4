package troika.tensor;

/// One allocation of a device's memory or of the pinned host memory beside it: an arena, from which tensors are slices.
///
/// @param name what it is, for messages, such as "rank 0 device arena"
/// @param address its first byte; a device address, which only that device's kernels may read, or a host address
/// @param bytes its size
/// @param host whether the host can read and write it
public record Memory(String name, long address, long bytes, boolean host) {
    /// The contiguous tensor at `offset` bytes from the start; throws where it would not fit.
    public Tensor tensor(long offset, DType dtype, Shape shape) {
        return new Tensor(this, offset, dtype, shape);
    }
}
