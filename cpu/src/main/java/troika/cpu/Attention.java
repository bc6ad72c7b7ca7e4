package troika.cpu;

import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.IntConsumer;
import troika.cpu.MatMul.Addend;
import troika.cpu.MatMul.Layout;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#attention]: scores are computed for a block of queries and one of keys at a time, and
/// blocks that no query sees are skipped.
final class Attention {
    /// Queries of a block.
    static final int QUERIES = 128;
    /// Keys of a block, at most; always a multiple of QUERIES, but at a sequence's end.
    static final int KEYS = 512;

    /// Elements from one row of a block's scores to the next: not a power of 2, which would crowd few cache sets.
    static final int STRIDE = KEYS + 32;
    /// Bytes of a block in fp32.
    static final long BLOCK_BYTES = 4L * QUERIES * STRIDE;

    private Attention() {}

    static Runnable forward(
            CpuStream stream, AttentionShape shape, Tensor qkv, Tensor positions, Tensor out, Tensor logSumExp) {
        int sequence = shape.sequence();
        int blocks = Math.ceilDiv(sequence, QUERIES);
        int units = Math.multiplyExact(Math.multiplyExact(shape.batch(), shape.heads()), blocks);
        if (units == 0) {
            return () -> {};
        }
        int threads = stream.workers().threads();
        AttentionForward[] slots = new AttentionForward[Math.min(threads, units)];
        for (int slot = 0; slot < slots.length; slot++) {
            slots[slot] = new AttentionForward(stream, slot, shape, qkv, positions, out, logSumExp);
        }
        return shared(stream, slots.length, units, (slot, unit) -> {
            // The last blocks of queries see the most keys: first, so that no thread begins one at the end.
            int block = blocks - 1 - unit % blocks;
            int rest = unit / blocks;
            slots[slot].block(rest / shape.heads(), rest % shape.heads(), block * QUERIES);
        });
    }

    static Runnable backward(
            CpuStream stream,
            AttentionShape shape,
            Tensor gradOut,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Tensor gradQkv) {
        int units = Math.multiplyExact(shape.batch(), shape.keyValueHeads());
        if (units == 0 || shape.sequence() == 0) {
            return () -> {};
        }
        int threads = stream.workers().threads();
        AttentionBackward[] slots = new AttentionBackward[Math.min(threads, units)];
        for (int slot = 0; slot < slots.length; slot++) {
            slots[slot] = new AttentionBackward(stream, slot, shape, gradOut, qkv, positions, out, logSumExp, gradQkv);
        }
        // A whole key-value head is one thread's, which adds up its gradients in a fixed order.
        return shared(
                stream,
                slots.length,
                units,
                (slot, unit) -> slots[slot].head(unit / shape.keyValueHeads(), unit % shape.keyValueHeads()));
    }

    /// Divides units of unequal work: each slot, which has its own scratch memory, takes the units of its range, whose
    /// rows it has likely in its cache, and then those that are left of the others'.
    private static Runnable shared(CpuStream stream, int slots, int units, Unit body) {
        AtomicInteger[] next = new AtomicInteger[slots];
        for (int slot = 0; slot < slots; slot++) {
            next[slot] = new AtomicInteger();
        }
        IntConsumer task = slot -> {
            for (int i = 0; i < slots; i++) {
                int range = (slot + i) % slots;
                int end = first(range + 1, slots, units);
                for (int unit = next[range].getAndIncrement(); unit < end; unit = next[range].getAndIncrement()) {
                    body.run(slot, unit);
                }
            }
        };
        return () -> {
            for (int slot = 0; slot < slots; slot++) {
                next[slot].set(first(slot, slots, units));
            }
            stream.workers().parallel(slots, task);
        };
    }

    private static int first(int range, int ranges, int units) {
        return (int) ((long) range * units / ranges);
    }

    private interface Unit {
        void run(int slot, int unit);
    }

    /// The first key, rounded down to a block of queries, that any of the queries `from` … `to` − 1 sees.
    ///
    /// @param positions the address of the sequence's positions
    static int firstKey(long positions, int from, int to) {
        int first = from;
        for (int i = from; i < to; i++) {
            first = Math.min(first, i - Vectors.getI32(positions, i));
        }
        return Math.max(0, first) / QUERIES * QUERIES;
    }

    /// Rows of the compute dtype as the products take them: where `half`, they are brought to F32 at `to`.
    ///
    /// @param rowBytes from one row to the next at `from`
    static long staged(boolean half, long from, long rowBytes, int rows, int size, long to) {
        if (!half) {
            return from;
        }
        Half.loadRows(from, rowBytes / 2, rows, size, to);
        return to;
    }

    /// out = factor · x, of `n` floats at `x`, which are lost where `half`, to the compute dtype.
    static void put(boolean half, boolean bf16, long x, float factor, long out, int n) {
        if (half) {
            Softmax.scale(false, x, factor, x, n);
            Half.store(x, out, n);
        } else {
            Softmax.scale(bf16, x, factor, out, n);
        }
    }

    /// Products of blocks by their sizes: of `queries` rows, whole or the sequence's last, and any number of keys.
    static final class Blocks {
        private final MatMul.Call[] calls;
        private final int sequence;

        /// @param key the product for a block of queries and keys
        Blocks(CpuStream stream, int slot, int sequence, BlockKey key) {
            this.sequence = sequence;
            int most = Math.ceilDiv(KEYS, QUERIES);
            calls = new MatMul.Call[4 * most];
            int rest = sequence % QUERIES;
            for (int i = 0; i < most; i++) {
                int whole = (i + 1) * QUERIES;
                int partial = i * QUERIES + rest;
                if (whole <= sequence) {
                    calls[i] = stream.call(MatMul.of(key.of(QUERIES, whole)), slot);
                    if (rest != 0) {
                        calls[most + i] = stream.call(MatMul.of(key.of(rest, whole)), slot);
                    }
                }
                if (rest != 0 && partial <= sequence) {
                    calls[3 * most + i] = stream.call(MatMul.of(key.of(rest, partial)), slot);
                }
            }
        }

        MatMul.Call call(int queries, int keys) {
            int most = calls.length / 4;
            int kind = (queries % QUERIES == 0 ? 0 : 1) + (keys % QUERIES == 0 ? 0 : 2);
            return calls[kind * most + (keys + QUERIES - 1) / QUERIES - 1];
        }

        int sequence() {
            return sequence;
        }
    }

    /// The product for a block.
    interface BlockKey {
        MatMul.Key of(int queries, int keys);
    }

    /// Keys and strides of the products that one head needs.
    record Products(DType dtype, int headSize, int qkvStride, int outStride) {
        static Products of(AttentionShape shape, DType dtype) {
            if (dtype == DType.F16) {
                // On staged rows.
                return new Products(DType.F32, shape.headSize(), shape.headSize(), shape.headSize());
            }
            return new Products(dtype, shape.headSize(), shape.qkvColumns(), shape.heads() * shape.headSize());
        }

        /// scores = q · kᵀ
        BlockKey scores() {
            return (m, n) -> new MatMul.Key(
                    m,
                    n,
                    headSize,
                    Layout.rows(dtype, qkvStride),
                    Layout.transposed(dtype, qkvStride),
                    Layout.rows(DType.F32, STRIDE),
                    Addend.NONE);
        }

        /// The gradient of probabilities: gradOut · vᵀ
        BlockKey gradProbabilities() {
            return (m, n) -> new MatMul.Key(
                    m,
                    n,
                    headSize,
                    Layout.rows(dtype, outStride),
                    Layout.transposed(dtype, qkvStride),
                    Layout.rows(DType.F32, STRIDE),
                    Addend.NONE);
        }

        /// p · (rows of qkv at the keys): the output from the values, or the gradient of queries from the keys
        BlockKey overKeys(boolean add) {
            return (m, n) -> new MatMul.Key(
                    m,
                    headSize,
                    n,
                    Layout.rows(dtype, STRIDE),
                    Layout.rows(dtype, qkvStride),
                    Layout.rows(DType.F32, headSize),
                    add ? Addend.C : Addend.NONE);
        }

        /// += pᵀ · (rows at the queries): the gradients of values and keys
        BlockKey overQueries(int stride) {
            return (m, n) -> new MatMul.Key(
                    n,
                    headSize,
                    m,
                    Layout.transposed(dtype, STRIDE),
                    Layout.rows(dtype, stride),
                    Layout.rows(DType.F32, headSize),
                    Addend.C);
        }
    }
}
