package troika.cuda;

import troika.tensor.DType;

/// One attention problem for cuDNN: causal, on views of fused rows of queries, keys and values.
///
/// @param dtype BF16 or F16
/// @param batch sequences, or slots for documents
/// @param heads query heads
/// @param sequence tokens of a sequence; of a document, at most
/// @param row elements from one token's queries, keys, values to the next's
/// @param outRow elements from one row of outputs to the next
/// @param tokens of all documents, at most; 0 where sequences are whole documents
/// @param tokenMajor whether statistics of documents are `[tokens, heads]`, not `[slots, heads, sequence]`
record CudnnSpec(
        DType dtype,
        boolean backward,
        int batch,
        int heads,
        int keyValueHeads,
        int sequence,
        int headSize,
        long row,
        long outRow,
        long tokens,
        boolean tokenMajor,
        boolean deterministic) {
    CudnnSpec {
        if (dtype != DType.BF16 && dtype != DType.F16) {
            throw new IllegalArgumentException("cuDNN's attention has 16-bit numbers, not " + dtype);
        }
    }

    boolean documents() {
        return tokens > 0;
    }

    boolean compactSums() {
        return documents() && tokenMajor;
    }

    /// Rows that each head has sums for.
    long sumRows() {
        return compactSums() ? tokens : (long) batch * sequence;
    }
}
