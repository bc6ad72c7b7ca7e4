package troika.cuda;

import org.jspecify.annotations.Nullable;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// What launches of this module's kernels have in common.
///
/// Kernels come in two kinds. One loads and stores 16 bytes a thread, for which every row must begin at a multiple of
/// 16; the other, whose names end in `_any`, an element.
final class Launch {
    static final int VECTOR_BYTES = 16;

    /// Threads of a block where their number does not matter otherwise.
    static final int BLOCK = 256;

    private Launch() {}

    static String suffix(DType dtype) {
        return switch (dtype) {
            case F32 -> "f32";
            case BF16 -> "bf16";
            case F16 -> "f16";
            case I32 -> throw new IllegalArgumentException("I32 is not a compute dtype");
        };
    }

    /// Whether all begin at a multiple of 16 bytes, and so do rows of `columns` elements, or parts of rows.
    static boolean vectors(long columns, @Nullable Tensor... tensors) {
        for (Tensor tensor : tensors) {
            if (tensor != null
                    && (tensor.address() % VECTOR_BYTES != 0
                            || columns * tensor.dtype().bytes() % VECTOR_BYTES != 0)) {
                return false;
            }
        }
        return true;
    }

    static String suffix(DType dtype, boolean vectors) {
        return suffix(dtype) + (vectors ? "" : "_any");
    }

    static int packElements(DType dtype, boolean vectors) {
        return vectors ? VECTOR_BYTES / dtype.bytes() : 1;
    }

    static int columns(Tensor tensor) {
        return Math.toIntExact(tensor.columns());
    }

    static Integer flag(boolean value) {
        return value ? 1 : 0;
    }

    static long workspace(CudaStream stream, long bytes) {
        if (bytes > stream.workspaceBytes()) {
            throw new IllegalArgumentException("a kernel needs " + bytes + " bytes of workspace on stream "
                    + stream.name() + ", which has " + stream.workspaceBytes());
        }
        return stream.workspace();
    }
}
