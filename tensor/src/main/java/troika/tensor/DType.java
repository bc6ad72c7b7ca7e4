package troika.tensor;

/// Element types of tensors, named as safetensors names them.
public enum DType {
    F32(4),
    BF16(2),
    F16(2),
    I32(4);

    private final int bytes;

    DType(int bytes) {
        this.bytes = bytes;
    }

    /// Bytes of one element.
    public int bytes() {
        return bytes;
    }

    /// Whether elements are floating-point numbers.
    public boolean isFloating() {
        return this != I32;
    }
}
