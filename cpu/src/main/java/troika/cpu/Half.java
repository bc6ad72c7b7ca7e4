package troika.cpu;

import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.ValueLayout;

/// F16 in memory: kernels compute in F32, to which their operands are brought a block at a time, and round what comes
/// out to nearest, ties to even. That is for the same numbers as on cards, and not for speed.
final class Half {
    private Half() {}

    /// `n` elements at `from` to floats at `to`.
    static void load(long from, long to, int n) {
        for (int i = 0; i < n; i++) {
            ALL.set(
                    ValueLayout.JAVA_FLOAT,
                    to + 4L * i,
                    Float.float16ToFloat(ALL.get(ValueLayout.JAVA_SHORT, from + 2L * i)));
        }
    }

    /// `n` floats at `from` to elements at `to`.
    static void store(long from, long to, int n) {
        for (int i = 0; i < n; i++) {
            ALL.set(
                    ValueLayout.JAVA_SHORT,
                    to + 2L * i,
                    Float.floatToFloat16(ALL.get(ValueLayout.JAVA_FLOAT, from + 4L * i)));
        }
    }

    /// A matrix whose rows lie `stride` elements apart, to floats at `to` without gaps.
    static void loadRows(long from, long stride, int rows, int columns, long to) {
        for (int row = 0; row < rows; row++) {
            load(from + 2 * stride * row, to + 4L * columns * row, columns);
        }
    }
}
