package troika.cpu;

import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// The forward of attention on one thread, with scratch memory of its own. The softmax of a block's rows is corrected
/// when a later block of keys has a larger score.
final class AttentionForward {
    private final AttentionShape shape;
    private final boolean half;
    private final boolean bf16;
    private final int bytes;
    private final int probabilityBytes;
    private final long qkv;
    private final long positions;
    private final long out;
    private final long logSumExp;
    private final long qkvRow;
    private final long outRow;

    private final Attention.Blocks scoreProducts;
    private final Attention.Blocks firstOutputs;
    private final Attention.Blocks furtherOutputs;
    private final long scores;
    private final long probabilities;
    private final long sums;
    // Of F16: rows in F32.
    private final long stagedQueries;
    private final long stagedKeys;
    // Of each query: the largest scaled score so far, times log2(e), and the sum of the exponentials.
    private final float[] largest = new float[Attention.QUERIES];
    private final float[] total = new float[Attention.QUERIES];
    // Of each query, in one block of keys: the largest before it and the first key that is seen.
    private final float[] before = new float[Attention.QUERIES];
    private final int[] begins = new int[Attention.QUERIES];
    private final float scale2;

    AttentionForward(
            CpuStream stream,
            int slot,
            AttentionShape shape,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp) {
        this.shape = shape;
        DType dtype = qkv.dtype();
        half = dtype == DType.F16;
        bf16 = !half && Tasks.isBf16(qkv);
        bytes = dtype.bytes();
        probabilityBytes = half ? 4 : bytes;
        this.qkv = qkv.address();
        this.positions = positions.address();
        this.out = out.address();
        this.logSumExp = logSumExp.address();
        qkvRow = (long) shape.qkvColumns() * bytes;
        outRow = (long) shape.heads() * shape.headSize() * bytes;
        scale2 = (float) (shape.scale() * Softmax.LOG2_E);
        Attention.Products products = Attention.Products.of(shape, dtype);
        scoreProducts = new Attention.Blocks(stream, slot, shape.sequence(), products.scores());
        firstOutputs = new Attention.Blocks(stream, slot, shape.sequence(), products.overKeys(false));
        furtherOutputs = new Attention.Blocks(stream, slot, shape.sequence(), products.overKeys(true));
        scores = stream.slotAddress(slot) + MatMul.SCRATCH_BYTES;
        probabilities = scores + Attention.BLOCK_BYTES;
        sums = probabilities + Attention.BLOCK_BYTES;
        stagedQueries = sums + 4L * Attention.QUERIES * shape.headSize();
        stagedKeys = stagedQueries + 4L * Attention.QUERIES * shape.headSize();
        long end = stagedKeys + 4L * Attention.KEYS * shape.headSize();
        if (half && end > stream.slotAddress(slot) + stream.slotBytes()) {
            throw new IllegalArgumentException(
                    "attention: heads of size " + shape.headSize() + " are too large for the stream's workspace");
        }
    }

    /// The queries from `from` of one head of one sequence.
    void block(int batch, int head, int from) {
        int size = shape.headSize();
        int to = Math.min(shape.sequence(), from + Attention.QUERIES);
        int queries = to - from;
        long firstToken = (long) batch * shape.sequence();
        long tokenPositions = positions + 4 * firstToken;
        int keyHead = (int) ((long) head * shape.keyValueHeads() / shape.heads());
        long sequence = qkv + firstToken * qkvRow;
        long query = sequence + from * qkvRow + (long) head * size * bytes;
        long keys = sequence + (long) (shape.heads() + keyHead) * size * bytes;
        long values = keys + (long) shape.keyValueHeads() * size * bytes;
        int first = Attention.firstKey(tokenPositions, from, to);
        long q = Attention.staged(half, query, qkvRow, queries, size, stagedQueries);
        for (int key = first; key < to; key += Attention.KEYS) {
            int count = Math.min(Attention.KEYS, to - key);
            long k = Attention.staged(half, keys + key * qkvRow, qkvRow, count, size, stagedKeys);
            scoreProducts.call(queries, count).run(q, k, scores);
            // All largest first: one row's exponentials need not wait for its own.
            for (int i = 0; i < queries; i++) {
                int row = from + i;
                int begin = Math.max(0, row - Vectors.getI32(tokenPositions, row) - key);
                int end = Math.min(count, row + 1 - key);
                begins[i] = begin;
                before[i] = key == first ? Float.NEGATIVE_INFINITY : largest[i];
                largest[i] = begin < end ? Math.max(before[i], largest(i, begin, end)) : before[i];
            }
            for (int i = 0; i < queries; i++) {
                softmax(i, begins[i], Math.min(count, from + i + 1 - key), count, key == first);
            }
            Attention.Blocks outputs = key == first ? firstOutputs : furtherOutputs;
            long v = Attention.staged(half, values + key * qkvRow, qkvRow, count, size, stagedKeys);
            outputs.call(queries, count).run(probabilities, v, sums);
        }
        long lse = logSumExp + 4 * (((long) batch * shape.heads() + head) * shape.sequence() + from);
        for (int i = 0; i < queries; i++) {
            long to1 = out + (firstToken + from + i) * outRow + (long) head * size * bytes;
            Attention.put(half, bf16, sums + 4L * i * size, 1 / total[i], to1, size);
            Vectors.putF32(lse + 4L * i, (float) (largest[i] / Softmax.LOG2_E + Math.log(total[i])));
        }
    }

    // The largest scaled score of row i, which sees keys begin … end − 1 of the block; hides the others.
    private float largest(int i, int begin, int end) {
        long score = scores + 4L * i * Attention.STRIDE;
        Softmax.hideAround(score, begin, end);
        return scale2 * Softmax.maxRow(score, begin / Vectors.LANES * Vectors.LANES, end);
    }

    // Row i's scores of the block become probabilities, up to a factor.
    private void softmax(int i, int begin, int end, int count, boolean first) {
        long score = scores + 4L * i * Attention.STRIDE;
        long probability = probabilities + (long) probabilityBytes * i * Attention.STRIDE;
        float sumBefore = first ? 0 : total[i];
        if (begin >= end) {
            Softmax.zero(bf16, probability, 0, count);
            total[i] = sumBefore;
            return;
        }
        int aligned = begin / Vectors.LANES * Vectors.LANES;
        float sum = Softmax.exponentialsRow(bf16, score, aligned, end, scale2, largest[i], probability);
        Softmax.zero(bf16, probability, 0, aligned);
        Softmax.zero(bf16, probability, end, count);
        if (!first && largest[i] > before[i]) {
            float factor = (float) Math.exp((before[i] - largest[i]) / Softmax.LOG2_E);
            sumBefore *= factor;
            long row = sums + 4L * i * shape.headSize();
            Softmax.scale(false, row, factor, row, shape.headSize());
        }
        total[i] = sumBefore + sum;
    }
}
