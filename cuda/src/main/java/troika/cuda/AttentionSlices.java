package troika.cuda;

import org.jspecify.annotations.Nullable;
import troika.tensor.AttentionShape;

/// How an attention call is cut so that each part's scratch memory fits: what cuDNN's backward needs grows
/// with the square of the sequence, or with all queries.
///
/// @param sequences of a part; the last part may have fewer
/// @param keyValueHeads of a part, with all their query heads; fewer than all only where sequences is 1
/// @param slots documents of a sequence that a part has room for on average; 0 where none are packed
record AttentionSlices(int sequences, int keyValueHeads, int slots) {
    // cuDNN's tiles: buffers of scores have rows and columns rounded up.
    private static final int SCORES_MULTIPLE = 128;

    // Packed sequences have room for documents of 128 tokens on average and one that is cut, where a part's
    // memory allows, else for fewer: each slot, also an empty one, is a launch of blocks for a whole
    // sequence. To be measured with real corpora.
    private static final int SLOT_TOKENS = 128;
    private static final int MOST_SLOTS = 32;
    private static final int FEWEST_SLOTS = 8;
    private static final int MOST_SLOTS_OF_PART = 1024;

    /// What one call needs.
    ///
    /// @param backward whether it is a backward
    /// @param deterministic whether gradients of queries are summed in a fixed order
    /// @param tokenMajor whether statistics of packed documents are `[tokens, heads]`, else they are
    /// `[slots, heads, sequence]`
    record Kind(boolean backward, boolean deterministic, boolean tokenMajor) {}

    /// The largest parts that fit, of about equal size, or null where not even the smallest fits.
    ///
    /// @param bytes of the workspace
    static @Nullable AttentionSlices of(AttentionShape shape, Kind kind, long bytes) {
        if (!shape.packed()) {
            return dense(shape, kind, bytes);
        }
        int most = Math.min(MOST_SLOTS, 1 + Math.ceilDiv(shape.sequence(), SLOT_TOKENS));
        for (int slots = most; slots >= Math.min(most, FEWEST_SLOTS); slots /= 2) {
            int sequences = mostSequences(shape, kind, slots, bytes - listBytes(shape.batch(), slots));
            if (sequences > 0) {
                return new AttentionSlices(balanced(shape.batch(), sequences), shape.keyValueHeads(), slots);
            }
        }
        return null;
    }

    private static @Nullable AttentionSlices dense(AttentionShape shape, Kind kind, long bytes) {
        int sequences = mostSequences(shape, kind, 0, bytes);
        if (sequences > 0) {
            return new AttentionSlices(balanced(shape.batch(), sequences), shape.keyValueHeads(), 0);
        }
        int group = shape.heads() / shape.keyValueHeads();
        for (int heads = shape.keyValueHeads() - 1; heads > 0; heads--) {
            if (bytes(shape, kind, 1, heads * group, 0) <= bytes) {
                return new AttentionSlices(1, balanced(shape.keyValueHeads(), heads), 0);
            }
        }
        return null;
    }

    private static int mostSequences(AttentionShape shape, Kind kind, int slots, long bytes) {
        int sequences = shape.batch();
        while (sequences > 0
                && (sequences * slots > MOST_SLOTS_OF_PART
                        || !addressable(shape, sequences)
                        || bytes(shape, kind, sequences, shape.heads(), slots) > bytes)) {
            sequences--;
        }
        return sequences;
    }

    /// Half as much a part, or null where parts cannot be smaller.
    @Nullable
    AttentionSlices smaller() {
        if (sequences > 1) {
            return new AttentionSlices(Math.ceilDiv(sequences, 2), keyValueHeads, slots);
        }
        return slots == 0 && keyValueHeads > 1 ? new AttentionSlices(1, Math.ceilDiv(keyValueHeads, 2), 0) : null;
    }

    /// The size of parts of which no more are needed than of size `most`.
    private static int balanced(int all, int most) {
        return Math.ceilDiv(all, Math.ceilDiv(all, most));
    }

    /// Offsets of elements are ints.
    private static boolean addressable(AttentionShape shape, int sequences) {
        return (long) sequences * shape.sequence() * shape.qkvColumns() <= Integer.MAX_VALUE;
    }

    /// What one part needs of scratch memory, statistics in cuDNN's order included, lists of documents not.
    static long bytes(AttentionShape shape, Kind kind, int sequences, int heads, int slots) {
        long tokens = (long) sequences * shape.sequence();
        // cuDNN's own buffers have a whole sequence for each document.
        long rows = slots == 0 ? tokens : (long) sequences * slots * shape.sequence();
        boolean compact = slots == 0 || kind.tokenMajor();
        long sums = 4L * heads * (compact ? tokens : rows);
        long bytes = slots == 0 ? 0 : sums;
        if (!kind.backward()) {
            return bytes;
        }
        bytes += sums;
        if (kind.deterministic()) {
            long columns = Math.ceilDiv(shape.sequence(), SCORES_MULTIPLE) * (long) SCORES_MULTIPLE;
            bytes += 2L * heads * Math.ceilDiv(rows, shape.sequence()) * columns * columns;
        } else if (slots > 0 && compact) {
            bytes += 4 * tokens * shape.qkvColumns();
        } else {
            bytes += 4 * rows * heads * shape.headSize();
        }
        if (shape.heads() != shape.keyValueHeads()) {
            bytes += 4 * rows * heads * shape.headSize();
        }
        return bytes;
    }

    /// Ints of one list of a part's documents.
    int listInts() {
        return listInts(sequences * slots);
    }

    private static int listInts(int slots) {
        return Math.ceilDiv(slots + 1, 64) * 64;
    }

    /// Bytes of the lists of all parts and their flags, at most: parts of one sequence have most.
    static long listBytes(int batch, int slots) {
        return slots == 0 ? 0 : batch * (4L * 4 * listInts(slots)) + Math.ceilDiv(4L * batch, 256L) * 256;
    }

    /// The parts that the batch is cut into.
    int parts(AttentionShape shape) {
        return Math.ceilDiv(shape.batch(), sequences);
    }
}
