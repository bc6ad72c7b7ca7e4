package troika.tensor;

/// A contiguous, row-major slice of a [Memory]. It owns nothing.
///
/// @param offset bytes from the start of the memory
public record Tensor(Memory memory, long offset, DType dtype, Shape shape) {
    public Tensor {
        long end = Math.addExact(offset, Math.multiplyExact(shape.elements(), dtype.bytes()));
        if (offset < 0 || end > memory.bytes()) {
            throw new IndexOutOfBoundsException(
                    "tensor " + dtype + shape + " at " + offset + " outside " + memory.name());
        }
    }

    /// The address of the first element.
    public long address() {
        return memory.address() + offset;
    }

    public long elements() {
        return shape.elements();
    }

    public long bytes() {
        return elements() * dtype.bytes();
    }

    /// The number of rows, all dimensions but the last flattened: `[batch, sequence, hidden]` has batch × sequence.
    public long rows() {
        long columns = columns();
        return columns == 0 ? 0 : elements() / columns;
    }

    /// The size of the last dimension; 1 for a scalar.
    public long columns() {
        return shape.rank() == 0 ? 1 : shape.size(-1);
    }
}
