package troika.cuda;

import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import troika.cuda.AttentionKernels.Wanted;
import troika.cuda.CudnnAttention.Prepared;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#attention]: by cuDNN where it can, else by this module's own kernels. Both
/// keep log-sum-exps in the order of the contract, so that a backward need not be of the same kind as its
/// forward.
final class Attention implements AutoCloseable {
    /// A system property: `own` has this module's own kernels do all attention, `cudnn` wants cuDNN
    /// wherever it can (the default).
    static final String PROPERTY = "troika.cuda.attention";

    /// Older ones have known errors, or lack what is asked for here.
    static final long OLDEST_CUDNN = 91900;
    /// Newer ones are compared with the own kernels first.
    static final long NEWEST_TRIED_CUDNN = 92499;

    private static final int MOST_CUDNN_HEAD_SIZE = 256;
    private static final int CUDNN_HEAD_MULTIPLE = 8;
    private static final int CUDNN_ALIGNMENT = 16;

    private final CudaDevice device;
    private final AttentionKernels own;
    private final Set<String> notes = new LinkedHashSet<>();
    private final long cudnnVersion;
    private final boolean forcedOwn;
    private final @Nullable Thread loading;
    private @Nullable CudnnAttention cudnn;
    private boolean checked;
    private String checkRefusal = "";

    Attention(CudaDevice device) {
        this(device, "own".equals(System.getProperty(PROPERTY)));
    }

    Attention(CudaDevice device, boolean forcedOwn) {
        this.device = device;
        this.forcedOwn = forcedOwn;
        own = new AttentionKernels(device);
        cudnnVersion = CudaLibraries.cudnn() == null ? 0 : Cudnn.version();
        loading = cudnnVersion < OLDEST_CUDNN || forcedOwn
                ? null
                : Thread.ofPlatform()
                        .daemon()
                        .name("cuDNN of cuda:" + device.ordinal())
                        .start(this::load);
    }

    /// cuDNN loads most of itself when its first handle is made: ahead of its first use, while others compile
    /// and allocate, and outside of any capture, in which it may not wait for the card.
    private void load() {
        try {
            cudnn = new CudnnAttention(device);
        } catch (CudaException e) {
            checked = true;
            checkRefusal = "cuDNN does not start: " + e.getMessage();
        }
    }

    private void awaitLoading() {
        if (loading != null) {
            try {
                loading.join();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }
    }

    void attention(
            CudaStream stream, AttentionShape shape, Tensor qkv, Tensor positions, Tensor out, Tensor logSumExp) {
        Prepared prepared = prepare(stream, shape, false, qkv, out);
        AttentionSlices slices = prepared.slices();
        if (slices == null) {
            own.forward(stream, shape, qkv, positions, out, logSumExp, Wanted.ALL);
            return;
        }
        cudnn().forward(stream, shape, slices, qkv, positions, out, logSumExp);
        if (shape.packed()) {
            own.forward(stream, shape, qkv, positions, out, logSumExp, CudnnAttention.left(stream, slices));
        }
    }

    void attentionBackward(
            CudaStream stream,
            AttentionShape shape,
            Tensor gradOut,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Tensor gradQkv) {
        Prepared prepared = prepare(stream, shape, true, qkv, out, gradOut, gradQkv);
        AttentionSlices slices = prepared.slices();
        if (slices != null) {
            cudnn().backward(stream, shape, slices, gradOut, qkv, positions, out, logSumExp, gradQkv);
            if (!shape.packed()) {
                return;
            }
        }
        Wanted wanted = slices == null ? Wanted.ALL : CudnnAttention.left(stream, slices);
        long offset = slices == null ? 0 : CudnnAttention.leftScratch(shape, slices);
        if (offset + AttentionKernels.deltaBytes(shape) > stream.workspaceBytes()) {
            throw new IllegalStateException("the workspace has no room for the sums of " + shape);
        }
        own.backward(
                stream, shape, gradOut, qkv, positions, out, logSumExp, gradQkv, wanted, stream.workspace() + offset);
    }

    void attentionDecode(
            CudaStream stream,
            AttentionShape shape,
            Tensor qkv,
            Tensor position,
            Tensor keys,
            Tensor values,
            Tensor out) {
        own.decode(stream, shape, qkv, position, keys, values, out);
    }

    /// Sentences on which attention is used for what, and why; one for each kind of call so far.
    synchronized List<String> notes() {
        return new ArrayList<>(notes);
    }

    private synchronized Prepared prepare(
            CudaStream stream, AttentionShape shape, boolean backward, Tensor qkv, Tensor... others) {
        DType dtype = qkv.dtype();
        String refusal = forcedOwn
                ? "the property " + PROPERTY + " asks for it"
                : refusal(dtype, shape, backward, device.deterministic(), device.capability(), cudnnVersion);
        if (refusal.isEmpty()
                && (qkv.elements() == 0
                        || !aligned(qkv)
                        || !List.of(others).stream().allMatch(Attention::aligned))) {
            refusal = "tensors are empty, or not aligned to " + CUDNN_ALIGNMENT + " bytes";
        }
        if (refusal.isEmpty()) {
            refusal = check();
        }
        Prepared prepared =
                refusal.isEmpty() ? cudnn().prepare(stream, dtype, shape, backward) : new Prepared(null, refusal);
        notes.add(note(dtype, shape, backward, prepared));
        return prepared;
    }

    private static boolean aligned(Tensor tensor) {
        return tensor.address() % CUDNN_ALIGNMENT == 0;
    }

    private String note(DType dtype, AttentionShape shape, boolean backward, Prepared prepared) {
        AttentionSlices slices = prepared.slices();
        String what = (backward ? "Attention's backward" : "Attention") + " for "
                + dtype.name().toLowerCase(Locale.ROOT)
                + " heads of " + shape.headSize()
                + (shape.packed() ? ", documents packed," : "")
                + " of " + shape.batch() + " x " + shape.sequence() + " tokens";
        if (slices == null) {
            return what + " is by Troika's own kernels: " + prepared.refusal() + ".";
        }
        int parts = slices.parts(shape) * Math.ceilDiv(shape.keyValueHeads(), slices.keyValueHeads());
        return what + " is by cuDNN " + cudnnVersion / 10000 + "." + cudnnVersion / 100 % 100 + "." + cudnnVersion % 100
                + (parts == 1 ? "." : ", in " + parts + " parts.");
    }

    /// Why cuDNN is not even asked, or empty. It may still have no engine.
    ///
    /// @param cudnnVersion 0 where there is none
    static String refusal(
            DType dtype,
            AttentionShape shape,
            boolean backward,
            boolean deterministic,
            int capability,
            long cudnnVersion) {
        if (dtype == DType.F32) {
            return "cuDNN's has 16-bit numbers only";
        }
        if (cudnnVersion == 0) {
            return "cuDNN was not found";
        }
        if (cudnnVersion < OLDEST_CUDNN) {
            return "cuDNN " + cudnnVersion + " is older than " + OLDEST_CUDNN;
        }
        if (shape.headSize() % CUDNN_HEAD_MULTIPLE != 0 || shape.headSize() > MOST_CUDNN_HEAD_SIZE) {
            return "cuDNN's head sizes are multiples of " + CUDNN_HEAD_MULTIPLE + " up to " + MOST_CUDNN_HEAD_SIZE;
        }
        if (backward && shape.packed() && deterministic && !CudnnAttention.tokenMajor(capability)) {
            return "cuDNN has no deterministic backward of packed documents on this card";
        }
        return "";
    }

    private CudnnAttention cudnn() {
        return Objects.requireNonNull(cudnn, "cuDNN");
    }

    /// Why a cuDNN newer than those tried is not used, or empty; compared once, and the result kept on
    /// disk.
    private String check() {
        awaitLoading();
        if (!checked) {
            checked = true;
            if (cudnnVersion > NEWEST_TRIED_CUDNN) {
                checkRefusal = CudnnCheck.refusal(device, cudnnVersion, own, cudnn());
            }
        }
        return checkRefusal;
    }

    /// Gives back what cuDNN holds; nothing may be under way.
    @Override
    public synchronized void close() {
        awaitLoading();
        if (cudnn != null) {
            cudnn.close();
        }
    }
}
