package troika.graph;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Collects the ops of a block's forward, on shapes alone. Each method here is one op, or a fixed
/// list of them, and returns the symbolic result; see [troika.tensor.Kernels] for the formulas and
/// shapes.
public final class Trace {
    /// What the trace is for.
    public enum Mode {
        TRAIN,
        /// Loss only.
        EVALUATE,
        /// One token against a key-value cache.
        DECODE
    }

    /// Rows of a chunk of logits are a multiple of this.
    private static final long CHUNK_UNIT = 64;

    /// What a block is traced for.
    ///
    /// @param dtype the compute dtype
    /// @param batch sequences of the microbatch
    /// @param sequence tokens of each
    /// @param packed whether documents may start anywhere in a sequence
    /// @param rebuild whether results of norms and SwiGLUs are made again in the backward, by kernels that
    /// read their inputs anyway, instead of kept
    /// @param logitsAtATime rows × vocabulary of the loss head's chunks, about
    public record Settings(
            Mode mode, DType dtype, int batch, int sequence, boolean packed, boolean rebuild, long logitsAtATime) {}

    private final Settings settings;
    private final DType dtype;
    private final Map<String, Parameter> parameters;
    private int values;
    private final List<Node> nodes = new ArrayList<>();
    private final Map<String, Value> named = new HashMap<>();
    /// Gradients that the forward itself computes: the chunked loss.
    private final Map<Value, Value> gradients = new HashMap<>();
    /// Values that every tensor-parallel rank has alike and multiplies by weights of its own.
    private final Set<Value> shared = new HashSet<>();
    /// By products, the residuals that other ranks add to them.
    private final Map<Value, Value> besides = new HashMap<>();

    Trace(Settings settings, Map<String, Parameter> parameters) {
        this.settings = settings;
        this.dtype = settings.dtype();
        this.parameters = parameters;
    }

    public Mode mode() {
        return settings.mode();
    }

    /// Tokens of the microbatch.
    public long tokens() {
        return (long) settings.batch() * settings.sequence();
    }

    /// A weight of the block, in the compute dtype, by its name within the block.
    public Value parameter(String name) {
        return named(Value.Kind.PARAMETER, name, dtype, shapeOf(name));
    }

    /// A tensor of the microbatch or the step.
    public Value global(String name, DType type, Shape shape) {
        return named(Value.Kind.GLOBAL, name, type, shape);
    }

    /// A tensor of the block that outlives the step.
    public Value state(String name, Shape shape) {
        return named(Value.Kind.STATE, name, dtype, shape);
    }

    /// Zero for tokens outside the rows of the table that this rank holds.
    public Value embedding(Value tokens, Value table) {
        return emit(new Op.Embedding(firstRow(table)), "embedding", shape(tokens(), columns(table)), tokens, table);
    }

    public Value rmsNorm(Value x, Value weight, double epsilon) {
        Value out = local("norm", dtype, x.shape());
        Value rstd = local("rstd", DType.F32, shape(rows(x)));
        nodes.add(new Node(new Op.RmsNorm((float) epsilon), List.of(x, weight), List.of(out, rstd)));
        return out;
    }

    public Value linear(Value x, Value weight, @Nullable Value residual, String name) {
        return emit(new Op.Linear(), name, shape(rows(x), weight.shape().size(0)), x, weight, residual);
    }

    /// A product to which another rank adds the residual, before they are summed: nothing is added here, but
    /// the residual gets its gradient.
    public Value linearBeside(Value x, Value weight, Value residual, String name) {
        Value out = linear(x, weight, null, name);
        besides.put(out, residual);
        return out;
    }

    /// `into` + `x`, in place of `into`, which must not be used afterwards.
    public Value add(Value x, Value into) {
        Value out = alias(into, into.name(), 0, into.shape());
        nodes.add(new Node(new Op.Add(), List.of(x), List.of(out)));
        return out;
    }

    /// The sum over tensor-parallel ranks, in place: `partial` must not be used afterwards. What follows is
    /// the same on all ranks, so its gradient is.
    public Value sumOverRanks(Value partial) {
        Value out = alias(partial, partial.name(), 0, partial.shape());
        nodes.add(new Node(new Op.AllReduce(TensorParallel.AXIS), List.of(), List.of(out)));
        return out;
    }

    /// `x`, which all tensor-parallel ranks have alike, for one product with weights that they have parts of:
    /// its gradient is summed over the ranks.
    public Value shared(Value x) {
        Value out = alias(x, x.name(), 0, x.shape());
        shared.add(out);
        return out;
    }

    /// The rows of all tensor-parallel ranks, one behind the other; the gradient is summed over them, and
    /// each gets its rows.
    public Value gatherRows(Value x) {
        return gather(x, shape(tokens(), columns(x)));
    }

    /// This rank's rows of the sum over tensor-parallel ranks; the gradient is gathered.
    ///
    /// @param rows how many they are
    public Value scatterRows(Value partial, long rows) {
        return emit(new Op.ReduceScatter(TensorParallel.AXIS), partial.name(), shape(rows, columns(partial)), partial);
    }

    /// In place: `x` must not be used afterwards, nor need its old content in its own backward.
    public Value rope(Value x, Value positions, Value table, int heads, int headSize) {
        Value out = alias(x, x.name(), 0, x.shape());
        nodes.add(new Node(new Op.Rope(heads, headSize, false), List.of(x, positions, table), List.of(out)));
        return out;
    }

    public Value attention(Value qkv, Value positions, int heads, int keyValueHeads, int headSize) {
        AttentionShape shape = new AttentionShape(
                settings.batch(), settings.sequence(), heads, keyValueHeads, headSize, settings.packed());
        Value out = local("attention", dtype, shape(tokens(), (long) heads * headSize));
        Value logSumExp = local("logSumExp", DType.F32, shape(settings.batch(), heads, settings.sequence()));
        nodes.add(new Node(new Op.Attention(shape), List.of(qkv, positions), List.of(out, logSumExp)));
        return out;
    }

    public Value attentionDecode(
            Value qkv, Value position, Value keys, Value values, int heads, int keyValueHeads, int headSize) {
        AttentionShape shape = new AttentionShape(1, 1, heads, keyValueHeads, headSize, false);
        Value out = local("attention", dtype, shape(1, (long) heads * headSize));
        nodes.add(new Node(new Op.AttentionDecode(shape), List.of(qkv, position), List.of(keys, values, out)));
        return out;
    }

    public Value swiGlu(Value gateUp) {
        return emit(new Op.SwiGlu(), "swiglu", shape(rows(gateUp), columns(gateUp) / 2), gateUp);
    }

    /// The head with its cross-entropy, in chunks of rows so that logits are never whole: they are
    /// the largest tensor of a small model by far. When training, a chunk's logits become their
    /// gradient in place, from which the gradients of `x` and `weight` follow at once, while the
    /// chunk is still in cache; the backward finds them done.
    ///
    /// Where the vocabulary is split over ranks, what each finds in its logits (maximum, sum, the label's
    /// logit) is gathered first; the gradient of `x` is then this rank's part of a sum.
    ///
    /// @param labels I32 `[T]`
    /// @param scale F32 `[1]`
    /// @param loss F32 `[1]`, added to
    /// @param ranks over which the vocabulary is split
    public void lossHead(Value x, Value weight, Value labels, Value scale, Value loss, int ranks) {
        boolean training = mode() == Mode.TRAIN;
        long rows = rows(x);
        // Not the local vocabulary: the ranks' chunks must be of equal rows.
        long vocabulary = Math.ceilDiv(wholeRows(weight), (long) ranks);
        long chunks = Math.ceilDiv(rows, Math.max(CHUNK_UNIT, settings.logitsAtATime() / vocabulary));
        long chunkRows = Math.ceilDiv(rows, Math.max(1, chunks) * CHUNK_UNIT) * CHUNK_UNIT;
        @Nullable Value gradX = training ? local("gradNorm", dtype, x.shape()) : null;
        for (long start = 0; start < rows; start += chunkRows) {
            long count = Math.min(chunkRows, rows - start);
            Value part = alias(x, x.name(), start * columns(x), shape(count, columns(x)));
            Value partLabels = alias(labels, labels.name(), start, shape(count));
            Value logits = linear(part, weight, null, "logits");
            Value gradLogits = crossEntropy(logits, partLabels, scale, loss, firstRow(weight), ranks);
            if (gradX != null) {
                Value partGradX = alias(gradX, gradX.name(), start * columns(x), shape(count, columns(x)));
                nodes.add(new Node(new Op.LinearBackwardInput(), List.of(gradLogits, weight), List.of(partGradX)));
                nodes.add(new Node(
                        new Op.LinearBackwardWeight(true),
                        List.of(gradLogits, part),
                        List.of(parameterGradient(weight))));
            }
        }
        if (gradX != null) {
            gradients.put(x, gradX);
        }
    }

    /// Adds to the loss; when training, returns the gradient of the logits, in their place.
    private Value crossEntropy(Value logits, Value labels, Value scale, Value loss, long first, int ranks) {
        boolean training = mode() == Mode.TRAIN;
        Value result = training ? alias(logits, "gradLogits", 0, logits.shape()) : logits;
        List<Value> outputs = training ? List.of(loss, result) : List.of(loss);
        if (ranks == 1) {
            nodes.add(new Node(new Op.CrossEntropy(training, true), List.of(logits, labels, scale), outputs));
            return result;
        }
        Value part = local("part", DType.F32, shape(rows(logits), 3));
        nodes.add(new Node(new Op.CrossEntropyPart(first), List.of(logits, labels), List.of(part)));
        Value parts = gather(part, shape(ranks, rows(logits), 3));
        nodes.add(new Node(
                new Op.CrossEntropyWhole(first, training, true), List.of(logits, labels, parts, scale), outputs));
        return result;
    }

    // What the layers of TensorParallel need.

    /// What all tensor-parallel ranks have of it, one behind the other.
    Value gather(Value x, Shape shape) {
        Value out = local(x.name(), x.dtype(), shape);
        nodes.add(new Node(new Op.AllGather(TensorParallel.AXIS), List.of(x), List.of(out)));
        return out;
    }

    /// The rows of a weight in the whole model.
    long wholeRows(Value parameter) {
        return parameterOf(parameter.name()).portion().whole().size(0);
    }

    private long firstRow(Value parameter) {
        return parameterOf(parameter.name()).portion().rows().getFirst().start();
    }

    // What the backward builder and TracedBlock need.

    boolean isShared(Value value) {
        return shared.contains(value);
    }

    /// The residual that other ranks add to a product.
    @Nullable
    Value residualBeside(Value product) {
        return besides.get(product);
    }

    boolean rebuilds() {
        return settings.rebuild();
    }

    Value blockInput(Shape shape) {
        return named(Value.Kind.BLOCK_INPUT, "input", dtype, shape);
    }

    Value outputGradient(Value output) {
        return named(Value.Kind.OUTPUT_GRADIENT, "outputGradient", dtype, output.shape());
    }

    Value parameterGradient(Value parameter) {
        return named(Value.Kind.PARAMETER_GRADIENT, parameter.name(), DType.F32, shapeOf(parameter.name()));
    }

    Value local(String name, DType type, Shape shape) {
        return add(Value.Kind.LOCAL, name, type, shape, null, 0);
    }

    Value alias(Value base, String name, long offset, Shape shape) {
        return add(base.kind(), name, base.dtype(), shape, base, offset);
    }

    List<Node> nodes() {
        return nodes;
    }

    Map<Value, Value> gradients() {
        return gradients;
    }

    static long rows(Value value) {
        return value.shape().elements() / Math.max(1, columns(value));
    }

    static long columns(Value value) {
        return value.shape().size(-1);
    }

    private static Shape shape(long... sizes) {
        return new Shape(sizes);
    }

    private Shape shapeOf(String parameter) {
        return parameterOf(parameter).shape();
    }

    private Parameter parameterOf(String name) {
        Parameter found = parameters.get(name);
        if (found == null) {
            throw new IllegalArgumentException("the block has no parameter " + name);
        }
        return found;
    }

    private Value emit(Op op, String name, Shape shape, @Nullable Value... inputs) {
        Value out = local(name, dtype, shape);
        nodes.add(new Node(op, Arrays.asList(inputs), List.of(out)));
        return out;
    }

    private Value named(Value.Kind kind, String name, DType type, Shape shape) {
        Value known = named.get(kind + name);
        if (known == null) {
            known = add(kind, name, type, shape, null, 0);
            named.put(kind + name, known);
        }
        return known;
    }

    private Value add(Value.Kind kind, String name, DType type, Shape shape, @Nullable Value base, long offset) {
        return new Value(values++, kind, name, type, shape, base, offset);
    }
}
