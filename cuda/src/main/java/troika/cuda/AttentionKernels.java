package troika.cuda;

import java.util.Locale;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// This module's own attention: any dtype, any card, deterministic.
final class AttentionKernels {
    private static final int DELTA_ROWS = 8;
    private static final int DELTA_THREADS = 256;
    private static final int DECODE_THREADS = 128;
    private static final int COMBINE_THREADS = 256;
    private static final int CHUNK_ROWS = 128;
    private static final int MOST_CHUNKS = 64;
    private static final int VECTOR_BYTES = 16;

    private final CudaDevice device;

    AttentionKernels(CudaDevice device) {
        this.device = device;
    }

    /// Which sequences are to be computed: all, or those whose flag on the card is set.
    ///
    /// @param flags the address of an int for each `sequences` of the batch, or 0 for all
    record Wanted(long flags, int sequences) {
        static final Wanted ALL = new Wanted(0, 1);
    }

    void forward(
            CudaStream stream,
            AttentionShape shape,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Wanted wanted) {
        if (qkv.elements() == 0) {
            return;
        }
        AttentionTile tile = AttentionTile.of(qkv.dtype(), shape.headSize());
        launch(
                stream,
                shape,
                tile,
                device.function(tile.source(), "attention_forward"),
                shape.heads(),
                tile.threads(),
                tile.forwardBytes(),
                vectors(shape, qkv, out),
                wanted,
                qkv.address(),
                positions(shape, positions),
                out.address(),
                logSumExp.address());
    }

    /// @param scratch the address of [#deltaBytes] bytes
    void backward(
            CudaStream stream,
            AttentionShape shape,
            Tensor gradOut,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Tensor gradQkv,
            Wanted wanted,
            long scratch) {
        if (qkv.elements() == 0) {
            return;
        }
        AttentionTile tile = AttentionTile.of(qkv.dtype(), shape.headSize());
        long rows = (long) shape.batch() * shape.sequence() * shape.heads();
        CudaFunction delta = device.function(tile.source(), "attention_delta");
        long blocks = Math.ceilDiv(rows, DELTA_ROWS);
        Object[] deltaArguments = {
            gradOut.address(), out.address(), scratch, shape.sequence(), shape.heads(), shape.headSize(), rows
        };
        delta.launch(
                stream,
                blocks,
                DELTA_THREADS,
                0,
                qkv.dtype() == DType.F32 ? deltaArguments : with(deltaArguments, wanted.flags(), wanted.sequences()));
        int vectors = Math.min(vectors(shape, qkv, gradOut), vectors(shape, gradQkv, out));
        Object[] arguments = {
            gradOut.address(),
            qkv.address(),
            positions(shape, positions),
            logSumExp.address(),
            scratch,
            gradQkv.address()
        };
        launch(
                stream,
                shape,
                tile,
                device.function(tile.source(), "attention_backward_keys"),
                shape.keyValueHeads(),
                tile.keyThreads(),
                tile.backwardKeysBytes(),
                vectors,
                wanted,
                arguments);
        launch(
                stream,
                shape,
                tile,
                device.function(tile.source(), "attention_backward_queries"),
                shape.heads(),
                tile.threads(),
                tile.backwardQueriesBytes(),
                vectors,
                wanted,
                arguments);
    }

    /// What a backward needs of scratch memory.
    static long deltaBytes(AttentionShape shape) {
        return 4L * shape.batch() * shape.sequence() * shape.heads();
    }

    /// A block for each tile of rows, head and sequence. All these kernels end their parameters alike.
    private static void launch(
            CudaStream stream,
            AttentionShape shape,
            AttentionTile tile,
            CudaFunction kernel,
            int heads,
            int threads,
            int sharedBytes,
            int vectors,
            Wanted wanted,
            Object... pointers) {
        Object[] sizes =
                with(pointers, shape.sequence(), shape.heads(), shape.keyValueHeads(), shape.headSize(), shape.scale());
        kernel.launch(
                stream,
                Math.ceilDiv(shape.sequence(), tile.rows()),
                heads,
                shape.batch(),
                threads,
                sharedBytes,
                tile.dtype() == DType.F32 ? sizes : with(sizes, vectors, wanted.flags(), wanted.sequences()));
    }

    private static Object[] with(Object[] first, Object... more) {
        Object[] all = new Object[first.length + more.length];
        System.arraycopy(first, 0, all, 0, first.length);
        System.arraycopy(more, 0, all, first.length, more.length);
        return all;
    }

    private static long positions(AttentionShape shape, Tensor positions) {
        return shape.packed() ? positions.address() : 0;
    }

    /// 1 where every head of every row begins at a multiple of 16 bytes.
    private static int vectors(AttentionShape shape, Tensor a, Tensor b) {
        long head = (long) shape.headSize() * a.dtype().bytes();
        return (head | a.address() | b.address()) % VECTOR_BYTES == 0 ? 1 : 0;
    }

    void decode(
            CudaStream stream,
            AttentionShape shape,
            Tensor qkv,
            Tensor position,
            Tensor keys,
            Tensor values,
            Tensor out) {
        AttentionTile.of(qkv.dtype(), shape.headSize());
        String suffix = qkv.dtype().name().toLowerCase(Locale.ROOT);
        long cached = keys.rows();
        int chunkRows = chunkRows(cached);
        int chunks = Math.toIntExact(Math.ceilDiv(cached, chunkRows));
        device.function("attention_decode", "attention_decode_" + suffix)
                .launch(
                        stream,
                        chunks,
                        (long) shape.heads(),
                        1L,
                        DECODE_THREADS,
                        0,
                        qkv.address(),
                        position.address(),
                        keys.address(),
                        values.address(),
                        stream.workspace(),
                        shape.heads(),
                        shape.keyValueHeads(),
                        shape.headSize(),
                        chunkRows,
                        shape.scale());
        device.function("attention_decode", "attention_combine_" + suffix)
                .launch(
                        stream,
                        shape.heads(),
                        COMBINE_THREADS,
                        0,
                        stream.workspace(),
                        out.address(),
                        chunks,
                        shape.headSize());
    }

    /// Rows of a cache that one block takes: at most 64 blocks share a head.
    static int chunkRows(long cached) {
        return Math.toIntExact(Math.max(CHUNK_ROWS, Math.ceilDiv(cached, MOST_CHUNKS)));
    }
}
