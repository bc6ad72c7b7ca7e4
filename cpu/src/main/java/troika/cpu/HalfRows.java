package troika.cpu;

import java.util.ArrayList;
import java.util.List;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;
import troika.tensor.DType;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// Kernels on rows of F16: a block of rows at a time is brought to F32 in the second half of the workspace, the F32
/// kernel runs on it with the first half as its workspace, and its results are rounded back.
final class HalfRows {
    /// Of the rows of a block; a size that does not depend on the threads, as sums over blocks do on it.
    private static final long BLOCK_BYTES = 3L << 20;
    /// Elements of one task of a conversion.
    private static final int CHUNK = 1 << 14;

    private final CpuStream stream;
    private final Tensor workspace;
    private long used;
    private final List<Runnable> runs = new ArrayList<>();

    private HalfRows(CpuStream stream) {
        this.stream = stream;
        workspace = stream.workspace();
        used = workspace.bytes() / 2;
    }

    /// A kernel on the rows from `from`, `count` of them.
    private interface Block {
        void prepare(long from, long count);
    }

    static Runnable embeddingBackward(
            CpuStream stream, Tensor tokens, Tensor gradOut, long first, Tensor gradTable, boolean accumulate) {
        HalfRows half = new HalfRows(stream);
        half.blocks(gradOut.rows(), gradOut.columns(), (from, count) -> {
            Tensor grad = half.read(gradOut, from, count);
            Tensor ids = part(tokens, from, count);
            half.runs.add(Embedding.backward(stream.workers(), ids, grad, first, gradTable, accumulate || from > 0));
        });
        return half.whole();
    }

    static Runnable rmsNorm(CpuStream stream, Tensor x, Tensor weight, float epsilon, Tensor out, Tensor rstd) {
        HalfRows half = new HalfRows(stream);
        Tensor scale = half.read(weight, 0, weight.rows());
        half.blocks(x.rows(), 2 * x.columns(), (from, count) -> {
            Tensor in = half.read(x, from, count);
            Tensor result = half.stage(out, count);
            half.runs.add(RmsNorm.forward(stream.workers(), in, scale, epsilon, result, part(rstd, from, count)));
            half.write(result, out, from);
        });
        return half.whole();
    }

    static Runnable rmsNormBackward(
            CpuStream stream,
            Tensor gradOut,
            Tensor x,
            Tensor weight,
            Tensor rstd,
            @Nullable Tensor residual,
            Tensor gradX,
            Tensor gradWeight,
            @Nullable Tensor out,
            boolean accumulate) {
        HalfRows half = new HalfRows(stream);
        Tensor scale = half.read(weight, 0, weight.rows());
        half.blocks(x.rows(), 5 * x.columns(), (from, count) -> {
            Tensor grad = half.read(gradOut, from, count);
            Tensor in = half.read(x, from, count);
            Tensor past = residual == null ? null : half.read(residual, from, count);
            Tensor result = half.stage(gradX, count);
            Tensor again = out == null ? null : half.stage(out, count);
            half.runs.add(RmsNorm.backward(
                    stream.workers(),
                    grad,
                    in,
                    scale,
                    part(rstd, from, count),
                    past,
                    result,
                    gradWeight,
                    again,
                    accumulate || from > 0,
                    half.rest()));
            half.write(result, gradX, from);
            half.write(again, out, from);
        });
        return half.whole();
    }

    static Runnable rope(
            CpuStream stream, Tensor x, Tensor positions, Tensor table, int heads, int headSize, boolean inverse) {
        HalfRows half = new HalfRows(stream);
        half.blocks(x.rows(), x.columns(), (from, count) -> {
            Tensor in = half.read(x, from, count);
            Tensor at = part(positions, from, count);
            half.runs.add(Rope.rotate(stream.workers(), in, at, table, heads, headSize, inverse));
            half.write(in, x, from);
        });
        return half.whole();
    }

    static Runnable swiglu(CpuStream stream, Tensor gateUp, Tensor out) {
        HalfRows half = new HalfRows(stream);
        half.blocks(out.rows(), 3 * out.columns(), (from, count) -> {
            Tensor in = half.read(gateUp, from, count);
            Tensor result = half.stage(out, count);
            half.runs.add(SwiGlu.forward(stream.workers(), in, result));
            half.write(result, out, from);
        });
        return half.whole();
    }

    static Runnable swigluBackward(
            CpuStream stream, Tensor gradOut, Tensor gateUp, Tensor gradGateUp, @Nullable Tensor out) {
        HalfRows half = new HalfRows(stream);
        half.blocks(gradOut.rows(), 4 * gradOut.columns(), (from, count) -> {
            Tensor grad = half.read(gradOut, from, count);
            Tensor in = half.read(gateUp, from, count);
            Tensor again = out == null ? null : half.stage(out, count);
            half.runs.add(SwiGlu.backward(stream.workers(), grad, in, in, again));
            half.write(in, gradGateUp, from);
            half.write(again, out, from);
        });
        return half.whole();
    }

    static Runnable crossEntropy(
            CpuStream stream,
            Tensor logits,
            Tensor labels,
            Tensor scale,
            Tensor loss,
            boolean gradient,
            boolean accumulate) {
        HalfRows half = new HalfRows(stream);
        half.blocks(logits.rows(), logits.columns(), (from, count) -> {
            Tensor in = half.read(logits, from, count);
            half.runs.add(CrossEntropy.run(
                    stream.workers(),
                    in,
                    part(labels, from, count),
                    scale,
                    loss,
                    gradient,
                    accumulate || from > 0,
                    half.rest()));
            if (gradient) {
                half.write(in, logits, from);
            }
        });
        return half.whole();
    }

    static Runnable crossEntropyPart(CpuStream stream, Tensor logits, Tensor labels, long first, Tensor part) {
        HalfRows half = new HalfRows(stream);
        half.blocks(labels.elements(), logits.columns(), (from, count) -> {
            Tensor in = half.read(logits, from, count);
            Tensor of = part(part, 3 * from, 3 * count);
            half.runs.add(CrossEntropyParts.part(stream.workers(), in, part(labels, from, count), first, of));
        });
        return half.whole();
    }

    static Runnable crossEntropyWhole(
            CpuStream stream,
            Tensor logits,
            Tensor labels,
            Tensor parts,
            Tensor scale,
            long first,
            Tensor loss,
            boolean gradient,
            boolean accumulate) {
        HalfRows half = new HalfRows(stream);
        half.blocks(labels.elements(), logits.columns(), (from, count) -> {
            Tensor in = half.read(logits, from, count);
            half.runs.add(CrossEntropyParts.whole(
                    stream.workers(),
                    in,
                    part(labels, from, count),
                    parts,
                    from,
                    scale,
                    first,
                    loss,
                    gradient,
                    accumulate || from > 0,
                    half.rest()));
            if (gradient) {
                half.write(in, logits, from);
            }
        });
        return half.whole();
    }

    /// Prepares the blocks of `rows` rows, of which each needs `columns` floats.
    private void blocks(long rows, long columns, Block block) {
        long each = Math.max(1, BLOCK_BYTES / (4 * Math.max(1, columns)));
        long start = used;
        // Of no rows too, since a weight's gradient may have to become zero.
        long from = 0;
        do {
            used = start;
            block.prepare(from, Math.min(each, rows - from));
            from += each;
        } while (from < rows);
    }

    /// The workspace of the F32 kernels.
    private Tensor rest() {
        return workspace.memory().tensor(workspace.offset(), DType.F32, new Shape(workspace.bytes() / 8));
    }

    /// Room for rows such as a tensor's.
    private Tensor stage(Tensor tensor, long rows) {
        long bytes = 4 * rows * tensor.columns();
        Tasks.requireWorkspace(workspace, used + bytes);
        Tensor staged =
                workspace.memory().tensor(workspace.offset() + used, DType.F32, new Shape(rows, tensor.columns()));
        used += (bytes + 63) / 64 * 64;
        return staged;
    }

    /// Brings rows of a tensor to F32.
    private Tensor read(Tensor tensor, long from, long rows) {
        Tensor staged = stage(tensor, rows);
        long source = tensor.address() + 2 * from * tensor.columns();
        long target = staged.address();
        convert(staged.elements(), (at, n) -> Half.load(source + 2 * at, target + 4 * at, n));
        return staged;
    }

    /// Rounds rows to those of a tensor from `from` on.
    private void write(@Nullable Tensor staged, @Nullable Tensor tensor, long from) {
        if (staged == null || tensor == null) {
            return;
        }
        long source = staged.address();
        long target = tensor.address() + 2 * from * tensor.columns();
        convert(staged.elements(), (at, n) -> Half.store(source + 4 * at, target + 2 * at, n));
    }

    private interface Conversion {
        void run(long at, int n);
    }

    private void convert(long elements, Conversion conversion) {
        IntConsumer task = chunk -> {
            long at = (long) chunk * CHUNK;
            conversion.run(at, (int) Math.min(CHUNK, elements - at));
        };
        int tasks = Tasks.count(elements, CHUNK);
        runs.add(() -> stream.workers().parallel(tasks, task));
    }

    /// Elements of a tensor without columns.
    private static Tensor part(Tensor tensor, long from, long count) {
        int bytes = tensor.dtype().bytes();
        return tensor.memory().tensor(tensor.offset() + from * bytes, tensor.dtype(), new Shape(count));
    }

    private Runnable whole() {
        Runnable[] all = runs.toArray(Runnable[]::new);
        return () -> {
            for (Runnable run : all) {
                run.run();
            }
        };
    }
}
