package troika.cuda;

import java.util.Locale;
import troika.tensor.DType;

/// How this module's own attention kernels are compiled for a dtype and head size, and the shared memory of
/// a block.
///
/// @param padded the head's size, rounded up to 32
/// @param forwardKeys keys of a forward tile
/// @param backwardRows rows of a backward stage: queries beside 64 keys, or keys beside 64 queries; for
/// F32, of all tiles
/// @param stages how many are in shared memory: one is loaded while the one before is used
/// @param halves sets of four warps that share the columns of a block of keys
record AttentionTile(DType dtype, int padded, int forwardKeys, int backwardRows, int stages, int halves) {
    /// What the user's card has.
    static final int SHARED_BYTES = 99 << 10;

    static final int MOST_HEAD_SIZE = 256;
    /// Queries of a forward block, keys and queries of backward blocks, on tensor cores.
    private static final int ROWS = 64;

    private static final int WARPS_THREADS = 128;
    private static final int F32_THREADS = 256;

    static AttentionTile of(DType dtype, int headSize) {
        if (headSize < 2 || headSize > MOST_HEAD_SIZE || headSize % 2 != 0) {
            throw new IllegalArgumentException("attention heads of size " + headSize);
        }
        int padded = Math.ceilDiv(headSize, 32) * 32;
        if (dtype == DType.F32) {
            int rows = padded <= 128 ? 32 : 16;
            return new AttentionTile(dtype, padded, rows, rows, 1, 1);
        }
        int backwardRows = padded <= 64 ? 64 : padded <= 128 ? 32 : 16;
        return new AttentionTile(
                dtype, padded, padded <= 192 ? 64 : 32, backwardRows, padded <= 192 ? 2 : 1, padded <= 128 ? 1 : 2);
    }

    private boolean f32() {
        return dtype == DType.F32;
    }

    /// The source and its definitions, as [CudaDevice#function] takes them.
    String source() {
        return f32()
                ? "attention_f32 PADDED=" + padded + " TILE=" + backwardRows
                : "attention TYPE=" + dtype.name().toLowerCase(Locale.ROOT) + " PADDED=" + padded + " FORWARD_KEYS="
                        + forwardKeys + " BACKWARD_ROWS=" + backwardRows + " STAGES=" + stages + " HALVES=" + halves;
    }

    /// Queries of a forward block and of a block for gradients of queries; keys of one for gradients of
    /// keys.
    int rows() {
        return f32() ? backwardRows : ROWS;
    }

    int threads() {
        return f32() ? F32_THREADS : WARPS_THREADS;
    }

    int keyThreads() {
        return f32() ? F32_THREADS : WARPS_THREADS * halves;
    }

    int forwardBytes() {
        return f32() ? 4 * (2 * f32Tile() + f32Scores()) : 2 * (ROWS + 2 * forwardKeys) * (padded + 8);
    }

    int backwardKeysBytes() {
        return f32()
                ? 4 * (4 * f32Tile() + 2 * f32Scores())
                : 2 * (2 * ROWS * (padded + 8) + stages * (2 * backwardRows * (padded + 8) + 3 * 2 * backwardRows));
    }

    int backwardQueriesBytes() {
        return f32()
                ? 4 * (4 * f32Tile() + 2 * f32Scores())
                : 2 * (2 * ROWS + stages * 2 * backwardRows) * (padded + 8);
    }

    private int f32Tile() {
        return backwardRows * (padded + 4);
    }

    private int f32Scores() {
        return backwardRows * (backwardRows + 1);
    }
}
