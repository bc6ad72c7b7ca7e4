package troika.tensor;

import java.util.Arrays;

/// The sizes of a tensor's dimensions, outermost first. Sizes may be 0; the empty shape is a scalar.
public record Shape(long... sizes) {
    public Shape {
        sizes = sizes.clone();
        for (long size : sizes) {
            if (size < 0) {
                throw new IllegalArgumentException("negative size in shape " + Arrays.toString(sizes));
            }
        }
    }

    public static Shape of(long... sizes) {
        return new Shape(sizes);
    }

    @Override
    public long[] sizes() {
        return sizes.clone();
    }

    public int rank() {
        return sizes.length;
    }

    /// The size of dimension `i`; negative `i` counts from the end, as -1 for the last.
    public long size(int i) {
        return sizes[i < 0 ? sizes.length + i : i];
    }

    /// The number of elements; throws ArithmeticException where it exceeds a long.
    public long elements() {
        long n = 1;
        for (long size : sizes) {
            n = Math.multiplyExact(n, size);
        }
        return n;
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Shape s && Arrays.equals(sizes, s.sizes);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(sizes);
    }

    @Override
    public String toString() {
        return Arrays.toString(sizes);
    }
}
