package troika.cuda;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.cuda.AttentionKernels.Wanted;
import troika.cuda.AttentionSlices.Kind;
import troika.cuda.CudnnGraph.Role;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// Attention by cuDNN: a call is cut into slices whose scratch memory fits the stream's workspace, and
/// packed documents are listed on the card. The host decides nothing by what is in device memory, so all of
/// it can be captured.
///
/// The workspace holds, where documents are packed, a flag for each slice, the lists of each slice's
/// documents and the statistics of the slice at work, and behind them what cuDNN needs.
final class CudnnAttention implements AutoCloseable {
    private static final int DOCUMENT_THREADS = 512;
    private static final int STATISTICS_THREADS = 256;
    private static final int LISTS = 4;

    private final CudaDevice device;
    private final boolean tokenMajor;
    private final List<Long> spareHandles = new ArrayList<>();
    private final Map<CudaStream, Long> handles = new HashMap<>();
    private final Map<PlanKey, CudnnPlan> plans = new HashMap<>();
    private final Map<PreparedKey, Prepared> prepared = new HashMap<>();

    CudnnAttention(CudaDevice device) {
        this.device = device;
        // cuDNN's frontend has statistics of packed tokens on data-center cards only.
        tokenMajor = tokenMajor(device.capability());
        // Made now, since a stream's first call may be in a capture, where a library may not wait for the card.
        device.bind();
        spareHandles.add(Cudnn.create());
    }

    static boolean tokenMajor(int capability) {
        return capability >= 90 && capability < 120;
    }

    private record PlanKey(CudaStream stream, CudnnSpec spec) {}

    private record PreparedKey(CudaStream stream, DType dtype, AttentionShape shape, boolean backward) {}

    /// A call whose plans are there, or the reason why cuDNN cannot do it.
    ///
    /// @param slices null where there is a refusal
    /// @param refusal why not, or empty
    record Prepared(@Nullable AttentionSlices slices, String refusal) {}

    /// Compiles or loads what a call needs. A refusal is remembered.
    synchronized Prepared prepare(CudaStream stream, DType dtype, AttentionShape shape, boolean backward) {
        PreparedKey key = new PreparedKey(stream, dtype, shape, backward);
        Prepared known = prepared.get(key);
        if (known == null) {
            known = prepareAnew(stream, dtype, shape, backward);
            prepared.put(key, known);
        }
        return known;
    }

    private Prepared prepareAnew(CudaStream stream, DType dtype, AttentionShape shape, boolean backward) {
        Kind kind = new Kind(backward, device.deterministic(), tokenMajor);
        long bytes = stream.workspaceBytes();
        AttentionSlices slices = AttentionSlices.of(shape, kind, bytes);
        try {
            while (slices != null) {
                // cuDNN decides what it needs; the slices are an estimate.
                if (largest(stream, dtype, shape, slices, backward) <= bytes) {
                    return new Prepared(slices, "");
                }
                slices = slices.smaller();
            }
        } catch (CudaException e) {
            return new Prepared(null, String.valueOf(e.getMessage()));
        }
        return new Prepared(null, "what it needs of scratch memory does not fit the workspace");
    }

    /// The bytes of workspace that the slices need; makes their plans.
    private long largest(
            CudaStream stream, DType dtype, AttentionShape shape, AttentionSlices slices, boolean backward) {
        long most = 0;
        for (int sequences : new int[] {slices.sequences(), lastSequences(shape, slices)}) {
            int lastHeads = shape.keyValueHeads() - (headParts(shape, slices) - 1) * slices.keyValueHeads();
            for (int heads : new int[] {slices.keyValueHeads(), lastHeads}) {
                CudnnSpec spec = spec(dtype, shape, slices, sequences, heads, backward);
                most = Math.max(most, plan(stream, spec).workspaceBytes());
            }
        }
        return planOffset(shape, slices) + most;
    }

    private static int headParts(AttentionShape shape, AttentionSlices slices) {
        return Math.ceilDiv(shape.keyValueHeads(), slices.keyValueHeads());
    }

    private static int lastSequences(AttentionShape shape, AttentionSlices slices) {
        return shape.batch() - (slices.parts(shape) - 1) * slices.sequences();
    }

    private CudnnSpec spec(
            DType dtype,
            AttentionShape shape,
            AttentionSlices slices,
            int sequences,
            int keyValueHeads,
            boolean backward) {
        boolean documents = slices.slots() > 0;
        return new CudnnSpec(
                dtype,
                backward,
                documents ? sequences * slices.slots() : sequences,
                keyValueHeads * (shape.heads() / shape.keyValueHeads()),
                keyValueHeads,
                shape.sequence(),
                shape.headSize(),
                shape.qkvColumns(),
                (long) shape.heads() * shape.headSize(),
                documents ? (long) sequences * shape.sequence() : 0,
                documents && tokenMajor,
                backward && device.deterministic());
    }

    private CudnnPlan plan(CudaStream stream, CudnnSpec spec) {
        PlanKey key = new PlanKey(stream, spec);
        CudnnPlan plan = plans.get(key);
        if (plan == null) {
            plan = CudnnPlan.of(spec, handle(stream), device.cache(), device.identity());
            plans.put(key, plan);
        }
        return plan;
    }

    private long handle(CudaStream stream) {
        Long handle = handles.get(stream);
        if (handle == null) {
            handle = spareHandles.isEmpty() ? Cudnn.create() : spareHandles.removeLast();
            handles.put(stream, handle);
            Cudnn.setStream(handle, stream.handle());
        }
        return handle;
    }

    private static long flagBytes(AttentionShape shape, AttentionSlices slices) {
        return slices.slots() == 0 ? 0 : Math.ceilDiv(4L * slices.parts(shape), 256L) * 256;
    }

    private static long statisticsOffset(AttentionShape shape, AttentionSlices slices) {
        return flagBytes(shape, slices)
                + (slices.slots() == 0 ? 0 : 4L * LISTS * slices.listInts() * slices.parts(shape));
    }

    private long statisticsBytes(AttentionShape shape, AttentionSlices slices) {
        if (slices.slots() == 0) {
            return 0;
        }
        long rows = (long) slices.sequences() * shape.sequence() * (tokenMajor ? 1 : slices.slots());
        return Math.ceilDiv(4 * rows * shape.heads(), 256L) * 256;
    }

    private long planOffset(AttentionShape shape, AttentionSlices slices) {
        return statisticsOffset(shape, slices) + statisticsBytes(shape, slices);
    }

    /// Which sequences are left to this module's own kernels: those of slices with more documents than
    /// slots.
    static Wanted left(CudaStream stream, AttentionSlices slices) {
        return new Wanted(stream.workspace(), slices.sequences());
    }

    /// Where scratch memory begins, in bytes, that the own kernels may use behind a call of cuDNN.
    static long leftScratch(AttentionShape shape, AttentionSlices slices) {
        return statisticsOffset(shape, slices);
    }

    synchronized void forward(
            CudaStream stream,
            AttentionShape shape,
            AttentionSlices slices,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp) {
        listDocuments(stream, shape, slices, positions);
        for (Slice slice : parts(shape, slices)) {
            CudnnSpec spec = spec(qkv.dtype(), shape, slices, slice.sequences, slice.keyValueHeads, false);
            Map<Role, Long> tensors = inputs(stream, shape, slices, slice, qkv, logSumExp);
            tensors.put(Role.OUT, slice.head(out, slice.firstHead()));
            plan(stream, spec).execute(tensors, stream.workspace() + planOffset(shape, slices));
            if (slices.slots() > 0) {
                statistics(stream, shape, slices, slice, logSumExp, false);
            }
        }
    }

    synchronized void backward(
            CudaStream stream,
            AttentionShape shape,
            AttentionSlices slices,
            Tensor gradOut,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Tensor gradQkv) {
        listDocuments(stream, shape, slices, positions);
        for (Slice slice : parts(shape, slices)) {
            CudnnSpec spec = spec(qkv.dtype(), shape, slices, slice.sequences, slice.keyValueHeads, true);
            Map<Role, Long> tensors = inputs(stream, shape, slices, slice, qkv, logSumExp);
            tensors.put(Role.OUT, slice.head(out, slice.firstHead()));
            tensors.put(Role.GRAD_OUT, slice.head(gradOut, slice.firstHead()));
            tensors.put(Role.GRAD_Q, slice.head(gradQkv, slice.firstHead()));
            tensors.put(Role.GRAD_K, slice.head(gradQkv, slice.keyHead()));
            tensors.put(Role.GRAD_V, slice.head(gradQkv, slice.valueHead()));
            if (slices.slots() > 0) {
                if (!tokenMajor) {
                    // Rows behind a document's end are read, though nothing comes of them: no NaN.
                    Driver.memsetD8Async(
                            stream.workspace() + statisticsOffset(shape, slices),
                            (byte) 0,
                            statisticsBytes(shape, slices),
                            stream.handle());
                }
                statistics(stream, shape, slices, slice, logSumExp, true);
            }
            plan(stream, spec).execute(tensors, stream.workspace() + planOffset(shape, slices));
        }
    }

    private Map<Role, Long> inputs(
            CudaStream stream,
            AttentionShape shape,
            AttentionSlices slices,
            Slice slice,
            Tensor qkv,
            Tensor logSumExp) {
        Map<Role, Long> tensors = CudnnPlan.tensors();
        tensors.put(Role.Q, slice.head(qkv, slice.firstHead()));
        tensors.put(Role.K, slice.head(qkv, slice.keyHead()));
        tensors.put(Role.V, slice.head(qkv, slice.valueHead()));
        if (slices.slots() == 0) {
            tensors.put(Role.STATISTICS, slice.statistics(logSumExp));
            return tensors;
        }
        tensors.put(Role.STATISTICS, stream.workspace() + statisticsOffset(shape, slices));
        long lists = lists(stream, shape, slices, slice);
        long bytes = 4L * slices.listInts();
        tensors.put(Role.LENGTHS_Q, lists);
        tensors.put(Role.LENGTHS_KV, lists);
        tensors.put(Role.OFFSETS_Q, lists + bytes);
        tensors.put(Role.OFFSETS_K, lists + bytes);
        tensors.put(Role.OFFSETS_V, lists + bytes);
        tensors.put(Role.OFFSETS_OUT, lists + 2 * bytes);
        tensors.put(Role.OFFSETS_STATISTICS, lists + 3 * bytes);
        return tensors;
    }

    private static long lists(CudaStream stream, AttentionShape shape, AttentionSlices slices, Slice slice) {
        return stream.workspace()
                + flagBytes(shape, slices)
                + 4L * LISTS * slices.listInts() * (slice.first / slices.sequences());
    }

    private void listDocuments(CudaStream stream, AttentionShape shape, AttentionSlices slices, Tensor positions) {
        if (slices.slots() == 0) {
            return;
        }
        device.function("attention_documents", "attention_documents")
                .launch(
                        stream,
                        slices.parts(shape),
                        DOCUMENT_THREADS,
                        4 * (slices.sequences() * slices.slots() + 1),
                        positions.address(),
                        stream.workspace() + flagBytes(shape, slices),
                        stream.workspace(),
                        shape.sequence(),
                        shape.batch(),
                        slices.sequences(),
                        slices.slots(),
                        slices.listInts(),
                        shape.qkvColumns(),
                        shape.heads() * shape.headSize(),
                        shape.heads());
    }

    private void statistics(
            CudaStream stream,
            AttentionShape shape,
            AttentionSlices slices,
            Slice slice,
            Tensor logSumExp,
            boolean toStatistics) {
        device.function("attention_documents", "attention_statistics")
                .launch(
                        stream,
                        (long) slice.sequences * slices.slots(),
                        (long) shape.heads(),
                        1L,
                        STATISTICS_THREADS,
                        0,
                        slice.statistics(logSumExp),
                        stream.workspace() + statisticsOffset(shape, slices),
                        lists(stream, shape, slices, slice),
                        slices.listInts(),
                        shape.sequence(),
                        shape.heads(),
                        tokenMajor ? 1 : 0,
                        toStatistics ? 1 : 0);
    }

    /// Sequences `first` … and key-value heads `firstKeyValueHead` … of a call.
    private record Slice(AttentionShape shape, int first, int sequences, int firstKeyValueHead, int keyValueHeads) {
        int firstHead() {
            return firstKeyValueHead * (shape.heads() / shape.keyValueHeads());
        }

        int keyHead() {
            return shape.heads() + firstKeyValueHead;
        }

        int valueHead() {
            return shape.heads() + shape.keyValueHeads() + firstKeyValueHead;
        }

        /// The address of the slice's first element of a head of rows.
        long head(Tensor rows, int head) {
            long elements = (long) first * shape.sequence() * rows.columns() + (long) head * shape.headSize();
            return rows.address() + elements * rows.dtype().bytes();
        }

        long statistics(Tensor logSumExp) {
            return logSumExp.address() + 4 * ((long) first * shape.heads() + firstHead()) * shape.sequence();
        }
    }

    private static List<Slice> parts(AttentionShape shape, AttentionSlices slices) {
        List<Slice> all = new ArrayList<>();
        for (int first = 0; first < shape.batch(); first += slices.sequences()) {
            int sequences = Math.min(slices.sequences(), shape.batch() - first);
            for (int head = 0; head < shape.keyValueHeads(); head += slices.keyValueHeads()) {
                int heads = Math.min(slices.keyValueHeads(), shape.keyValueHeads() - head);
                all.add(new Slice(shape, first, sequences, head, heads));
            }
        }
        return all;
    }

    /// Gives back what is held for a stream that is about to be closed.
    synchronized void forget(CudaStream stream) {
        prepared.keySet().removeIf(key -> key.stream == stream);
        plans.entrySet().removeIf(entry -> {
            boolean gone = entry.getKey().stream == stream;
            if (gone) {
                entry.getValue().close();
            }
            return gone;
        });
        Long handle = handles.remove(stream);
        if (handle != null) {
            spareHandles.add(handle);
        }
    }

    /// Gives back all handles; nothing may be under way.
    @Override
    public synchronized void close() {
        plans.values().forEach(CudnnPlan::close);
        plans.clear();
        prepared.clear();
        handles.values().forEach(Cudnn::destroy);
        handles.clear();
        spareHandles.forEach(Cudnn::destroy);
        spareHandles.clear();
    }
}
