package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_FLOAT;

import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.tensor.DType;

/// The operations of one attention problem, in the pattern that cuDNN's fused engines recognize: scores and
/// all that follows from them are virtual tensors `[batch, heads, sequence, sequence]`.
final class CudnnGraph implements AutoCloseable {
    /// From this version on masks and softmax are operations of their own.
    private static final long UNIFIED_OPERATIONS = 92100;

    private static final int ALIGNMENT = 16;
    /// Where scratch tensors of this graph begin.
    static final int SCRATCH_ALIGNMENT = 256;

    /// The caller's tensors; a variant pack has an address for each that the graph uses.
    enum Role {
        NONE,
        Q,
        K,
        V,
        OUT,
        STATISTICS,
        GRAD_OUT,
        GRAD_Q,
        GRAD_K,
        GRAD_V,
        LENGTHS_Q,
        LENGTHS_KV,
        OFFSETS_Q,
        OFFSETS_K,
        OFFSETS_V,
        OFFSETS_OUT,
        OFFSETS_STATISTICS
    }

    /// A tensor with an address at execution.
    ///
    /// @param role whose tensor, or null
    /// @param address of a number by value, or an offset in the scratch memory; for a role 0
    record Bound(long id, @Nullable Role role, long address, boolean scratch) {}

    private record Tensor(long descriptor, long... sizes) {}

    private final CudnnSpec spec;
    private final long version;
    private final int io;
    private final long[] rows;
    private final long[] square;
    private final Arena arena = Arena.ofShared();
    private final List<Long> descriptors = new ArrayList<>();
    private final List<Long> operations = new ArrayList<>();
    private final List<Bound> bound = new ArrayList<>();
    private final Map<Role, Tensor> lists = new HashMap<>();
    private long nextId = Role.values().length;
    private long scratchBytes;
    private @Nullable Tensor scale;
    private @Nullable Tensor minusInfinity;

    CudnnGraph(CudnnSpec spec, long version) {
        this.spec = spec;
        this.version = version;
        io = spec.dtype() == DType.BF16 ? CudnnNames.BFLOAT16 : CudnnNames.HALF;
        rows = new long[] {spec.batch(), spec.heads(), spec.sequence(), 1};
        square = new long[] {spec.batch(), spec.heads(), spec.sequence(), spec.sequence()};
        try {
            if (spec.backward()) {
                backward();
            } else {
                forward();
            }
        } catch (Throwable e) {
            close();
            throw e;
        }
    }

    List<Bound> bound() {
        return bound;
    }

    long[] operations() {
        return operations.stream().mapToLong(Long::longValue).toArray();
    }

    /// Scratch memory of the graph's own tensors.
    long scratchBytes() {
        return scratchBytes;
    }

    /// A descriptor that lives as long as the graph.
    long make(int type) {
        long descriptor = Cudnn.createDescriptor(type);
        descriptors.add(descriptor);
        return descriptor;
    }

    /// A finished descriptor of attributes: triples of attribute, its type, and its value.
    long make(int type, long... triples) {
        long descriptor = make(type);
        for (int i = 0; i < triples.length; i += 3) {
            boolean absent = triples[i + 1] == CudnnNames.TYPE_DESCRIPTOR && triples[i + 2] == 0;
            if (!absent) {
                Cudnn.set(descriptor, (int) triples[i], (int) triples[i + 1], triples[i + 2]);
            }
        }
        Cudnn.finish(descriptor, type);
        return descriptor;
    }

    @Override
    public void close() {
        descriptors.reversed().forEach(Cudnn::destroyDescriptor);
        descriptors.clear();
        arena.close();
    }

    // out = softmax(mask(scale · q · kᵀ)) · v, and the log-sum-exps.
    private void forward() {
        Tensor q = view(Role.Q, spec.heads(), spec.row(), Role.OFFSETS_Q, false);
        Tensor keysTransposed = view(Role.K, spec.keyValueHeads(), spec.row(), Role.OFFSETS_K, true);
        Tensor scores = matmul(
                q, keysTransposed, virtual(CudnnNames.FLOAT, square), Role.LENGTHS_Q, Role.LENGTHS_KV, Role.NONE);
        Tensor x = causal(withinDocuments(scaled(scores)));
        Tensor p = virtual(io, square);
        if (version < UNIFIED_OPERATIONS) {
            Tensor most = reduce(CudnnNames.REDUCE_MAX, x, virtual(CudnnNames.FLOAT, rows));
            Tensor e = pointwise(CudnnNames.EXP, pointwise(CudnnNames.SUB, x, most), null);
            Tensor sum = reduce(CudnnNames.REDUCE_ADD, e, virtual(CudnnNames.FLOAT, rows));
            pointwise(CudnnNames.ADD, CudnnNames.FLOAT, most, pointwise(CudnnNames.LOG, sum, null), null, statistics());
            pointwise(CudnnNames.DIV, CudnnNames.FLOAT, e, sum, null, p);
        } else {
            operations.add(make(
                    CudnnNames.OPERATION_SOFTMAX,
                    CudnnNames.OP_SOFTMAX_X,
                    CudnnNames.TYPE_DESCRIPTOR,
                    x.descriptor,
                    CudnnNames.OP_SOFTMAX_Y,
                    CudnnNames.TYPE_DESCRIPTOR,
                    p.descriptor,
                    CudnnNames.OP_SOFTMAX_STATS,
                    CudnnNames.TYPE_DESCRIPTOR,
                    statistics().descriptor));
        }
        Tensor v = view(Role.V, spec.keyValueHeads(), spec.row(), Role.OFFSETS_V, false);
        Tensor out = view(Role.OUT, spec.heads(), spec.outRow(), Role.OFFSETS_OUT, false);
        matmul(p, v, out, Role.LENGTHS_Q, Role.NONE, Role.LENGTHS_KV);
    }

    private void backward() {
        Tensor q = view(Role.Q, spec.heads(), spec.row(), Role.OFFSETS_Q, false);
        Tensor keysTransposed = view(Role.K, spec.keyValueHeads(), spec.row(), Role.OFFSETS_K, true);
        Tensor valuesTransposed = view(Role.V, spec.keyValueHeads(), spec.row(), Role.OFFSETS_V, true);
        Tensor gradOut = view(Role.GRAD_OUT, spec.heads(), spec.outRow(), Role.OFFSETS_OUT, false);
        Tensor out = view(Role.OUT, spec.heads(), spec.outRow(), Role.OFFSETS_OUT, false);
        // delta = the sums of gradOut · out over columns, which must be a real tensor.
        Tensor products = pointwise(CudnnNames.MUL, gradOut, out);
        Tensor sums = reduce(CudnnNames.REDUCE_ADD, products, virtual(CudnnNames.FLOAT, rows));
        Tensor delta = scratch(rows, rowStrides(), spec.sumRows() * spec.heads(), rowOffsets());
        pointwise(CudnnNames.MUL, CudnnNames.FLOAT, sums, number(1), null, delta);
        // p = exp(mask(scale · q · kᵀ) − statistics), gradV = pᵀ · gradOut
        Tensor scores = matmul(
                q, keysTransposed, virtual(CudnnNames.FLOAT, square), Role.LENGTHS_Q, Role.LENGTHS_KV, Role.NONE);
        Tensor x = withinDocuments(scaled(scores));
        Tensor p = pointwise(CudnnNames.EXP, causal(pointwise(CudnnNames.SUB, x, statistics())), null);
        overQueries(p, gradOut, Role.GRAD_V, Role.OFFSETS_V);
        // gradScores = scale · p · (gradOut · vᵀ − delta), gradK = gradScoresᵀ · q
        Tensor gradP = matmul(
                gradOut,
                valuesTransposed,
                virtual(CudnnNames.FLOAT, square),
                Role.LENGTHS_Q,
                Role.LENGTHS_KV,
                Role.NONE);
        Tensor gradScores = scaled(pointwise(CudnnNames.MUL, pointwise(CudnnNames.SUB, gradP, delta), p));
        overQueries(gradScores, q, Role.GRAD_K, Role.OFFSETS_K);
        // gradQ = gradScores · k: straight into the output, which is deterministic, or summed by fp32
        // atomics.
        long[] keySizes = swapped(keysTransposed.sizes);
        Tensor k = reshape(
                keysTransposed,
                tensor(nextId++, io, keySizes, viewStrides(spec.row()), true, false, offsets(Role.OFFSETS_K)));
        Tensor gradQ = view(Role.GRAD_Q, spec.heads(), spec.row(), Role.OFFSETS_Q, false);
        if (spec.deterministic()) {
            matmul(gradScores, k, gradQ, Role.LENGTHS_Q, Role.NONE, Role.LENGTHS_KV);
            return;
        }
        // A ragged accumulator must have the strides and offsets of gradQ, or the kernel leaves its bounds.
        Tensor accumulator = spec.compactSums()
                ? scratch(q.sizes, viewStrides(spec.row()), spec.tokens() * spec.row(), offsets(Role.OFFSETS_Q))
                : scratch(q.sizes, rowMajor(q.sizes), spec.sumRows() * spec.heads() * spec.headSize(), null);
        matmul(gradScores, k, accumulator, Role.LENGTHS_Q, Role.NONE, Role.LENGTHS_KV);
        pointwise(CudnnNames.IDENTITY, CudnnNames.FLOAT, accumulator, null, null, gradQ);
    }

    /// out = aᵀ · right, summed over the query heads that share a key-value head.
    private void overQueries(Tensor a, Tensor right, Role role, Role offsets) {
        Tensor out = view(role, spec.keyValueHeads(), spec.row(), offsets, false);
        boolean grouped = spec.heads() != spec.keyValueHeads();
        long[] full = {spec.batch(), spec.heads(), spec.sequence(), spec.headSize()};
        Tensor product = grouped ? virtual(io, full) : out;
        Tensor transposed = tensor(nextId++, io, swapped(square), swapped(rowMajor(square)), true, false, null);
        matmul(reshape(a, transposed), right, product, Role.LENGTHS_KV, Role.NONE, Role.LENGTHS_Q);
        if (grouped) {
            reduce(CudnnNames.REDUCE_ADD, product, out);
        }
    }

    private long[] viewStrides(long row) {
        return new long[] {spec.sequence() * row, spec.headSize(), row, 1};
    }

    /// `[batch, heads, sequence, headSize]` of the caller's; transposed has its last two dimensions
    /// swapped.
    private Tensor view(Role role, int heads, long row, Role offsets, boolean transposed) {
        long[] sizes = {spec.batch(), heads, spec.sequence(), spec.headSize()};
        long[] strides = viewStrides(row);
        return real(
                role,
                io,
                transposed ? swapped(sizes) : sizes,
                transposed ? swapped(strides) : strides,
                offsets(offsets));
    }

    private @Nullable Tensor offsets(Role role) {
        return spec.documents() ? list(role, spec.batch() + 1) : null;
    }

    private Tensor list(Role role, int n) {
        Tensor list = lists.get(role);
        if (list == null) {
            list = real(role, CudnnNames.INT32, new long[] {n, 1, 1, 1}, new long[] {1, 1, 1, 1}, null);
            lists.put(role, list);
        }
        return list;
    }

    private Tensor real(Role role, int type, long[] sizes, long[] strides, @Nullable Tensor offsets) {
        long id = role.ordinal();
        bound.add(new Bound(id, role, 0, false));
        return tensor(id, type, sizes, strides, false, false, offsets);
    }

    private Tensor number(float x) {
        long[] one = {1, 1, 1, 1};
        long id = nextId++;
        bound.add(new Bound(id, null, arena.allocateFrom(JAVA_FLOAT, x).address(), false));
        return tensor(id, CudnnNames.FLOAT, one, one, false, true, null);
    }

    private Tensor scratch(long[] sizes, long[] strides, long elements, @Nullable Tensor offsets) {
        long id = nextId++;
        bound.add(new Bound(id, null, scratchBytes, true));
        scratchBytes += Math.ceilDiv(4 * elements, SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT;
        return tensor(id, CudnnNames.FLOAT, sizes, strides, false, false, offsets);
    }

    private Tensor virtual(int type, long... sizes) {
        return tensor(nextId++, type, sizes, rowMajor(sizes), true, false, null);
    }

    private Tensor tensor(
            long id,
            int type,
            long[] sizes,
            long[] strides,
            boolean virtual,
            boolean byValue,
            @Nullable Tensor offsets) {
        long descriptor = make(CudnnNames.TENSOR);
        Cudnn.set(descriptor, CudnnNames.TENSOR_DATA_TYPE, CudnnNames.TYPE_DATA_TYPE, type);
        Cudnn.set(descriptor, CudnnNames.TENSOR_DIMENSIONS, CudnnNames.TYPE_INT64, sizes);
        Cudnn.set(descriptor, CudnnNames.TENSOR_STRIDES, CudnnNames.TYPE_INT64, strides);
        Cudnn.set(descriptor, CudnnNames.TENSOR_UNIQUE_ID, CudnnNames.TYPE_INT64, id);
        Cudnn.set(descriptor, CudnnNames.TENSOR_BYTE_ALIGNMENT, CudnnNames.TYPE_INT64, ALIGNMENT);
        Cudnn.set(descriptor, CudnnNames.TENSOR_IS_VIRTUAL, CudnnNames.TYPE_BOOLEAN, virtual ? 1 : 0);
        Cudnn.set(descriptor, CudnnNames.TENSOR_IS_BY_VALUE, CudnnNames.TYPE_BOOLEAN, byValue ? 1 : 0);
        if (offsets != null) {
            Cudnn.set(descriptor, CudnnNames.TENSOR_RAGGED_OFFSET, CudnnNames.TYPE_DESCRIPTOR, offsets.descriptor);
        }
        Cudnn.finish(descriptor, CudnnNames.TENSOR);
        return new Tensor(descriptor, sizes);
    }

    /// c = a · b. Dimensions m, n, k that are tokens of documents end at the lengths of these roles.
    private Tensor matmul(Tensor a, Tensor b, Tensor c, Role m, Role n, Role k) {
        long product =
                make(CudnnNames.MATMUL, CudnnNames.MATMUL_COMP_TYPE, CudnnNames.TYPE_DATA_TYPE, CudnnNames.FLOAT);
        operations.add(make(
                CudnnNames.OPERATION_MATMUL,
                CudnnNames.OP_MATMUL_A,
                CudnnNames.TYPE_DESCRIPTOR,
                a.descriptor,
                CudnnNames.OP_MATMUL_B,
                CudnnNames.TYPE_DESCRIPTOR,
                b.descriptor,
                CudnnNames.OP_MATMUL_C,
                CudnnNames.TYPE_DESCRIPTOR,
                c.descriptor,
                CudnnNames.OP_MATMUL_DESCRIPTOR,
                CudnnNames.TYPE_DESCRIPTOR,
                product,
                CudnnNames.OP_MATMUL_M_LENGTH,
                CudnnNames.TYPE_DESCRIPTOR,
                length(m),
                CudnnNames.OP_MATMUL_N_LENGTH,
                CudnnNames.TYPE_DESCRIPTOR,
                length(n),
                CudnnNames.OP_MATMUL_K_LENGTH,
                CudnnNames.TYPE_DESCRIPTOR,
                length(k)));
        return c;
    }

    private long length(Role role) {
        return role != Role.NONE && spec.documents() ? list(role, spec.batch()).descriptor : 0;
    }

    private Tensor pointwise(int mode, int compute, Tensor x, @Nullable Tensor b, @Nullable Tensor t, Tensor y) {
        long function = make(
                CudnnNames.POINTWISE,
                CudnnNames.POINTWISE_MODE,
                CudnnNames.TYPE_POINTWISE_MODE,
                mode,
                CudnnNames.POINTWISE_MATH_PREC,
                CudnnNames.TYPE_DATA_TYPE,
                compute);
        operations.add(make(
                CudnnNames.OPERATION_POINTWISE,
                CudnnNames.OP_POINTWISE_DESCRIPTOR,
                CudnnNames.TYPE_DESCRIPTOR,
                function,
                CudnnNames.OP_POINTWISE_X,
                CudnnNames.TYPE_DESCRIPTOR,
                x.descriptor,
                CudnnNames.OP_POINTWISE_B,
                CudnnNames.TYPE_DESCRIPTOR,
                b == null ? 0 : b.descriptor,
                CudnnNames.OP_POINTWISE_T,
                CudnnNames.TYPE_DESCRIPTOR,
                t == null ? 0 : t.descriptor,
                CudnnNames.OP_POINTWISE_Y,
                CudnnNames.TYPE_DESCRIPTOR,
                y.descriptor));
        return y;
    }

    private Tensor pointwise(int mode, Tensor x, @Nullable Tensor b) {
        return pointwise(mode, CudnnNames.FLOAT, x, b, null, virtual(CudnnNames.FLOAT, x.sizes));
    }

    private Tensor compare(int mode, Tensor x, Tensor b) {
        return pointwise(mode, CudnnNames.BOOLEAN, x, b, null, virtual(CudnnNames.BOOLEAN, x.sizes));
    }

    /// The index of each element along an axis.
    private Tensor index(Tensor x, int axis, int compute) {
        Tensor y = virtual(CudnnNames.INT32, x.sizes);
        long function = make(
                CudnnNames.POINTWISE,
                CudnnNames.POINTWISE_MODE,
                CudnnNames.TYPE_POINTWISE_MODE,
                CudnnNames.GEN_INDEX,
                CudnnNames.POINTWISE_MATH_PREC,
                CudnnNames.TYPE_DATA_TYPE,
                compute,
                CudnnNames.POINTWISE_AXIS,
                CudnnNames.TYPE_INT64,
                axis);
        operations.add(make(
                CudnnNames.OPERATION_POINTWISE,
                CudnnNames.OP_POINTWISE_DESCRIPTOR,
                CudnnNames.TYPE_DESCRIPTOR,
                function,
                CudnnNames.OP_POINTWISE_X,
                CudnnNames.TYPE_DESCRIPTOR,
                x.descriptor,
                CudnnNames.OP_POINTWISE_Y,
                CudnnNames.TYPE_DESCRIPTOR,
                y.descriptor));
        return y;
    }

    private Tensor reduce(int operator, Tensor x, Tensor y) {
        long function = make(
                CudnnNames.REDUCTION,
                CudnnNames.REDUCTION_COMP_TYPE,
                CudnnNames.TYPE_DATA_TYPE,
                CudnnNames.FLOAT,
                CudnnNames.REDUCTION_OPERATOR,
                CudnnNames.TYPE_REDUCTION,
                operator);
        operations.add(make(
                CudnnNames.OPERATION_REDUCTION,
                CudnnNames.OP_REDUCTION_X,
                CudnnNames.TYPE_DESCRIPTOR,
                x.descriptor,
                CudnnNames.OP_REDUCTION_Y,
                CudnnNames.TYPE_DESCRIPTOR,
                y.descriptor,
                CudnnNames.OP_REDUCTION_DESCRIPTOR,
                CudnnNames.TYPE_DESCRIPTOR,
                function));
        return y;
    }

    private Tensor reshape(Tensor x, Tensor y) {
        operations.add(make(
                CudnnNames.OPERATION_RESHAPE,
                CudnnNames.OP_RESHAPE_X,
                CudnnNames.TYPE_DESCRIPTOR,
                x.descriptor,
                CudnnNames.OP_RESHAPE_Y,
                CudnnNames.TYPE_DESCRIPTOR,
                y.descriptor));
        return y;
    }

    private Tensor scaled(Tensor x) {
        if (scale == null) {
            scale = number((float) (1 / Math.sqrt(spec.headSize())));
        }
        return pointwise(CudnnNames.MUL, x, scale);
    }

    private Tensor minusInfinity() {
        if (minusInfinity == null) {
            minusInfinity = number(Float.NEGATIVE_INFINITY);
        }
        return minusInfinity;
    }

    private Tensor kept(Tensor x, Tensor mask) {
        return pointwise(
                CudnnNames.BINARY_SELECT,
                CudnnNames.FLOAT,
                x,
                minusInfinity(),
                mask,
                virtual(CudnnNames.FLOAT, x.sizes));
    }

    private Tensor withinDocuments(Tensor x) {
        if (!spec.documents()) {
            return x;
        }
        Tensor queries = list(Role.LENGTHS_Q, spec.batch());
        Tensor keys = list(Role.LENGTHS_KV, spec.batch());
        Tensor row = compare(CudnnNames.CMP_LT, index(x, 2, CudnnNames.INT32), queries);
        Tensor column = compare(CudnnNames.CMP_LT, index(x, 3, CudnnNames.INT32), keys);
        return kept(x, compare(CudnnNames.LOGICAL_AND, row, column));
    }

    private Tensor causal(Tensor x) {
        if (version < UNIFIED_OPERATIONS) {
            Tensor row = index(x, 2, CudnnNames.FLOAT);
            return kept(x, compare(CudnnNames.CMP_GE, row, index(x, 3, CudnnNames.FLOAT)));
        }
        Tensor y = virtual(CudnnNames.FLOAT, x.sizes);
        operations.add(make(
                CudnnNames.OPERATION_BAND_MASK,
                CudnnNames.OP_BAND_MASK_X,
                CudnnNames.TYPE_DESCRIPTOR,
                x.descriptor,
                CudnnNames.OP_BAND_MASK_FILL,
                CudnnNames.TYPE_DESCRIPTOR,
                minusInfinity().descriptor,
                CudnnNames.OP_BAND_MASK_Y,
                CudnnNames.TYPE_DESCRIPTOR,
                y.descriptor,
                CudnnNames.OP_BAND_MASK_COMPARISON,
                CudnnNames.TYPE_POINTWISE_MODE,
                CudnnNames.CMP_GE));
        return y;
    }

    private long[] rowStrides() {
        return spec.compactSums()
                ? new long[] {(long) spec.heads() * spec.sequence(), 1, spec.heads(), 1}
                : rowMajor(rows);
    }

    private @Nullable Tensor rowOffsets() {
        return spec.compactSums() ? offsets(Role.OFFSETS_STATISTICS) : null;
    }

    private Tensor statistics() {
        return real(Role.STATISTICS, CudnnNames.FLOAT, rows, rowStrides(), rowOffsets());
    }

    private static long[] rowMajor(long[] sizes) {
        return new long[] {sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1};
    }

    private static long[] swapped(long[] x) {
        return new long[] {x[0], x[1], x[3], x[2]};
    }
}
