package troika.cpu;

import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// The backward of attention on one thread, with scratch memory of its own: probabilities are computed again from
/// the scores and logSumExp, and the gradients of a key-value head's keys and values are summed in fp32 in a fixed
/// order.
final class AttentionBackward {
    private final AttentionShape shape;
    private final boolean half;
    private final boolean bf16;
    private final int bytes;
    private final int probabilityBytes;
    private final long gradOut;
    private final long qkv;
    private final long positions;
    private final long out;
    private final long logSumExp;
    private final long gradQkv;
    private final long qkvRow;
    private final long outRow;
    private final float scale2;

    private final Attention.Blocks scoreProducts;
    private final Attention.Blocks gradProbabilityProducts;
    private final Attention.Blocks gradValueProducts;
    private final Attention.Blocks gradKeyProducts;
    private final Attention.Blocks firstGradQueries;
    private final Attention.Blocks furtherGradQueries;
    private final long scores;
    private final long gradProbabilities;
    private final long probabilities;
    private final long gradScores;
    private final long gradQueries;
    private final long gradKeys;
    private final long gradValues;
    // Of F16: rows in F32.
    private final long stagedQueries;
    private final long stagedGrads;
    private final long stagedOuts;
    private final long stagedKeys;
    private final long stagedValues;
    /// Keys whose gradients fit into the scratch memory.
    private final int panel;

    private final float[] delta = new float[Attention.QUERIES];
    private final float[] logSumExp2 = new float[Attention.QUERIES];

    AttentionBackward(
            CpuStream stream,
            int slot,
            AttentionShape shape,
            Tensor gradOut,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Tensor gradQkv) {
        this.shape = shape;
        DType dtype = qkv.dtype();
        half = dtype == DType.F16;
        bf16 = !half && Tasks.isBf16(qkv);
        bytes = dtype.bytes();
        probabilityBytes = half ? 4 : bytes;
        this.gradOut = gradOut.address();
        this.qkv = qkv.address();
        this.positions = positions.address();
        this.out = out.address();
        this.logSumExp = logSumExp.address();
        this.gradQkv = gradQkv.address();
        qkvRow = (long) shape.qkvColumns() * bytes;
        outRow = (long) shape.heads() * shape.headSize() * bytes;
        scale2 = (float) (shape.scale() * Softmax.LOG2_E);
        int sequence = shape.sequence();
        Attention.Products products = Attention.Products.of(shape, dtype);
        scoreProducts = new Attention.Blocks(stream, slot, sequence, products.scores());
        gradProbabilityProducts = new Attention.Blocks(stream, slot, sequence, products.gradProbabilities());
        gradValueProducts = new Attention.Blocks(stream, slot, sequence, products.overQueries(products.outStride()));
        gradKeyProducts = new Attention.Blocks(stream, slot, sequence, products.overQueries(products.qkvStride()));
        firstGradQueries = new Attention.Blocks(stream, slot, sequence, products.overKeys(false));
        furtherGradQueries = new Attention.Blocks(stream, slot, sequence, products.overKeys(true));
        scores = stream.slotAddress(slot) + MatMul.SCRATCH_BYTES;
        gradProbabilities = scores + Attention.BLOCK_BYTES;
        probabilities = gradProbabilities + Attention.BLOCK_BYTES;
        gradScores = probabilities + Attention.BLOCK_BYTES;
        gradQueries = gradScores + Attention.BLOCK_BYTES;
        long queryBytes = 4L * Attention.QUERIES * shape.headSize();
        long keyBytes = half ? 4L * Attention.KEYS * shape.headSize() : 0;
        stagedQueries = gradQueries + queryBytes;
        stagedGrads = stagedQueries + (half ? queryBytes : 0);
        stagedOuts = stagedGrads + (half ? queryBytes : 0);
        stagedKeys = stagedOuts + (half ? queryBytes : 0);
        stagedValues = stagedKeys + keyBytes;
        gradKeys = stagedValues + keyBytes;
        long left = stream.slotAddress(slot) + stream.slotBytes() - gradKeys;
        long fit = left / (8L * shape.headSize()) / Attention.KEYS * Attention.KEYS;
        if (fit <= 0) {
            throw new IllegalArgumentException("attentionBackward: heads of size " + shape.headSize()
                    + " are too large for the stream's workspace");
        }
        panel = (int) Math.min(fit, sequence);
        gradValues = gradKeys + 4L * panel * shape.headSize();
    }

    /// All gradients of one key-value head of one sequence, and of the queries that use it.
    void head(int batch, int keyHead) {
        int sequence = shape.sequence();
        if (panel == sequence) {
            panel(batch, keyHead, 0, sequence, true, true);
            return;
        }
        // Not all fits: the gradients of some keys after the other, and those of the queries once more through all.
        for (int from = 0; from < sequence; from += panel) {
            panel(batch, keyHead, from, Math.min(sequence, from + panel), true, false);
        }
        panel(batch, keyHead, 0, sequence, false, true);
    }

    private void panel(int batch, int keyHead, int fromKey, int toKey, boolean ofKeys, boolean ofQueries) {
        int size = shape.headSize();
        int group = shape.heads() / shape.keyValueHeads();
        if (ofKeys) {
            MemoryOps.zero(gradKeys, 4L * (toKey - fromKey) * size);
            MemoryOps.zero(gradValues, 4L * (toKey - fromKey) * size);
        }
        for (int head = keyHead * group; head < (keyHead + 1) * group; head++) {
            for (int from = fromKey / Attention.QUERIES * Attention.QUERIES;
                    from < shape.sequence();
                    from += Attention.QUERIES) {
                block(batch, head, keyHead, from, fromKey, toKey, ofKeys, ofQueries);
            }
        }
        if (ofKeys) {
            long column = (long) (shape.heads() + keyHead) * size * bytes;
            long values = (long) shape.keyValueHeads() * size * bytes;
            for (int key = fromKey; key < toKey; key++) {
                long to = gradQkv + ((long) batch * shape.sequence() + key) * qkvRow + column;
                long from = 4L * (key - fromKey) * size;
                Attention.put(half, bf16, gradKeys + from, 1, to, size);
                Attention.put(half, bf16, gradValues + from, 1, to + values, size);
            }
        }
    }

    // What the queries from `from` give to the keys fromKey … toKey − 1 and get from them.
    private void block(
            int batch, int head, int keyHead, int from, int fromKey, int toKey, boolean ofKeys, boolean ofQueries) {
        int size = shape.headSize();
        int to = Math.min(shape.sequence(), from + Attention.QUERIES);
        int queries = to - from;
        long firstToken = (long) batch * shape.sequence();
        long tokenPositions = positions + 4 * firstToken;
        int first = Math.max(fromKey, Attention.firstKey(tokenPositions, from, to));
        int last = Math.min(toKey, to);
        if (first >= last) {
            return;
        }
        long queryColumn = (long) head * size * bytes;
        long query = qkv + (firstToken + from) * qkvRow + queryColumn;
        long keys = qkv + firstToken * qkvRow + (long) (shape.heads() + keyHead) * size * bytes;
        long values = keys + (long) shape.keyValueHeads() * size * bytes;
        long grad = gradOut + (firstToken + from) * outRow + queryColumn;
        long forward = out + (firstToken + from) * outRow + queryColumn;
        long lse = logSumExp + 4 * (((long) batch * shape.heads() + head) * shape.sequence() + from);
        long q = Attention.staged(half, query, qkvRow, queries, size, stagedQueries);
        long g = Attention.staged(half, grad, outRow, queries, size, stagedGrads);
        long o = Attention.staged(half, forward, outRow, queries, size, stagedOuts);
        long step = half ? 4L * size : outRow;
        for (int i = 0; i < queries; i++) {
            delta[i] = Softmax.dot(bf16, g + i * step, o + i * step, size, gradScores);
            logSumExp2[i] = (float) (Vectors.getF32(lse + 4L * i) * Softmax.LOG2_E);
        }
        for (int key = first; key < last; key += Attention.KEYS) {
            int count = Math.min(Attention.KEYS, last - key);
            long keyRows = key * qkvRow;
            long k = Attention.staged(half, keys + keyRows, qkvRow, count, size, stagedKeys);
            long v = Attention.staged(half, values + keyRows, qkvRow, count, size, stagedValues);
            scoreProducts.call(queries, count).run(q, k, scores);
            gradProbabilityProducts.call(queries, count).run(g, v, gradProbabilities);
            for (int i = 0; i < queries; i++) {
                int row = from + i;
                int begin = Math.max(0, row - Vectors.getI32(tokenPositions, row) - key);
                softmax(i, begin, Math.min(count, row + 1 - key), count);
            }
            if (ofKeys) {
                long sums = 4L * (key - fromKey) * size;
                gradValueProducts.call(queries, count).run(probabilities, g, gradValues + sums);
                gradKeyProducts.call(queries, count).run(gradScores, q, gradKeys + sums);
            }
            if (ofQueries) {
                Attention.Blocks products = key == first ? firstGradQueries : furtherGradQueries;
                products.call(queries, count).run(gradScores, k, gradQueries);
            }
        }
        if (ofQueries) {
            long toGrad = gradQkv + (firstToken + from) * qkvRow + queryColumn;
            for (int i = 0; i < queries; i++) {
                Attention.put(half, bf16, gradQueries + 4L * i * size, 1, toGrad + i * qkvRow, size);
            }
        }
    }

    private void softmax(int i, int begin, int end, int count) {
        long row = (long) i * Attention.STRIDE;
        long probability = probabilities + probabilityBytes * row;
        long gradScore = gradScores + probabilityBytes * row;
        int from = count;
        int to = count;
        if (begin < end) {
            from = begin / Vectors.LANES * Vectors.LANES;
            Softmax.hideAround(scores + 4 * row, begin, end);
            to = end;
            Softmax.gradientsRow(
                    bf16,
                    scores + 4 * row,
                    gradProbabilities + 4 * row,
                    from,
                    to,
                    scale2,
                    logSumExp2[i],
                    delta[i],
                    shape.scale(),
                    probability,
                    gradScore);
        }
        Softmax.zero(bf16, probability, 0, from);
        Softmax.zero(bf16, gradScore, 0, from);
        Softmax.zero(bf16, probability, to, count);
        Softmax.zero(bf16, gradScore, to, count);
    }
}
