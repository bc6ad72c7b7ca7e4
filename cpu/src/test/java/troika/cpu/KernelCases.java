package troika.cpu;

import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Consumer;
import java.util.function.Supplier;
import troika.ffi.NativeMemory;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.Kernels;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Calls of every method of [Kernels], as one step of a small model in bf16 makes them: 8 sequences of 256 tokens,
/// hidden size 256, intermediate size 688, vocabulary 4096, 8 heads of 32.
final class KernelCases {
    private static final DType BF16 = DType.BF16;
    private static final int BATCH = 8;
    private static final int SEQUENCE = 256;
    private static final int TOKENS = BATCH * SEQUENCE;
    private static final int HIDDEN = 256;
    private static final int INTERMEDIATE = 688;
    private static final int VOCABULARY = 4096;
    private static final int HEADS = 8;
    private static final int HEAD_SIZE = HIDDEN / HEADS;
    /// Rows of logits that the chunked loss computes at a time.
    private static final int CHUNK = 512;
    /// Rows of the cache that the decoded token attends to.
    private static final int CACHED = 1024;
    /// Weights of a decoder layer.
    private static final int PARAMETERS = HIDDEN * (3 * HIDDEN + HIDDEN + 3 * INTERMEDIATE + 2);

    private static final long MEMORY_BYTES = 128L << 20;

    /// One call, and what it has to do at least.
    ///
    /// @param flops of its matrix products
    /// @param read what it must read
    /// @param written what it must write; in place: both
    record Case(long flops, List<Tensor> read, List<Tensor> written, Consumer<Stream> call) {
        long bytes() {
            return sum(read) + sum(written);
        }

        /// The bytes of the memory that it touches.
        long workingSet() {
            var all = new LinkedHashSet<Tensor>(read);
            all.addAll(written);
            return sum(all);
        }

        private static long sum(Iterable<Tensor> tensors) {
            long bytes = 0;
            for (Tensor tensor : tensors) {
                bytes += tensor.bytes();
            }
            return bytes;
        }
    }

    private final Map<String, Supplier<Case>> cases = new LinkedHashMap<>();
    private final Random random = new Random(1);
    private final Memory memory;
    private final Kernels kernels;
    private long used;

    KernelCases(Device device) {
        memory = device.allocate("benchmark", MEMORY_BYTES);
        kernels = device.kernels();
        cases.put("embedding", this::embedding);
        cases.put("embeddingBackward", this::embeddingBackward);
        cases.put("rmsNorm", this::rmsNorm);
        cases.put("rmsNormBackward", this::rmsNormBackward);
        products("qkv", TOKENS, HIDDEN, 3 * HIDDEN, false);
        cases.put("rope", this::rope);
        cases.put("attention", this::attention);
        cases.put("attentionBackward", this::attentionBackward);
        cases.put("attentionDecode", this::attentionDecode);
        products("out", TOKENS, HIDDEN, HIDDEN, true);
        products("gateUp", TOKENS, HIDDEN, 2 * INTERMEDIATE, false);
        cases.put("swiglu", this::swiglu);
        cases.put("swigluBackward", this::swigluBackward);
        products("down", TOKENS, INTERMEDIATE, HIDDEN, true);
        products("logits", CHUNK, HIDDEN, VOCABULARY, false);
        cases.put("crossEntropy", () -> crossEntropy(false));
        cases.put("crossEntropy+gradient", () -> crossEntropy(true));
        cases.put("crossEntropyPart", this::crossEntropyPart);
        cases.put("crossEntropyWhole+gradient", this::crossEntropyWhole);
        cases.put("sumSquares", this::sumSquares);
        cases.put("clipFactor", this::clipFactor);
        cases.put("adamw", this::adamw);
        cases.put("zero", this::zero);
        cases.put("copy", this::copy);
        cases.put("cast", this::cast);
        cases.put("add", this::add);
    }

    List<String> names() {
        return List.copyOf(cases.keySet());
    }

    /// Makes the call's tensors, in place of those of the call before.
    Case of(String name) {
        Supplier<Case> made = cases.get(name);
        if (made == null) {
            throw new IllegalArgumentException("no case " + name);
        }
        used = 0;
        return made.get();
    }

    private void products(String name, int rows, int inputs, int outputs, boolean residual) {
        cases.put("linear " + name, () -> linear(rows, inputs, outputs, residual));
        cases.put("linearBackwardInput " + name, () -> linearBackwardInput(rows, inputs, outputs));
        cases.put("linearBackwardWeight " + name, () -> linearBackwardWeight(rows, inputs, outputs));
    }

    private Case linear(int rows, int inputs, int outputs, boolean added) {
        Tensor x = floats(BF16, rows, inputs);
        Tensor weight = floats(BF16, outputs, inputs);
        Tensor out = floats(BF16, rows, outputs);
        List<Tensor> read = new ArrayList<>(List.of(x, weight));
        if (!added) {
            return new Case(
                    product(rows, inputs, outputs),
                    read,
                    List.of(out),
                    stream -> kernels.linear(stream, x, weight, null, out));
        }
        Tensor residual = floats(BF16, rows, outputs);
        read.add(residual);
        return new Case(
                product(rows, inputs, outputs),
                read,
                List.of(out),
                stream -> kernels.linear(stream, x, weight, residual, out));
    }

    private Case linearBackwardInput(int rows, int inputs, int outputs) {
        Tensor gradOut = floats(BF16, rows, outputs);
        Tensor weight = floats(BF16, outputs, inputs);
        Tensor gradX = floats(BF16, rows, inputs);
        return new Case(
                product(rows, inputs, outputs),
                List.of(gradOut, weight),
                List.of(gradX),
                stream -> kernels.linearBackwardInput(stream, gradOut, weight, gradX));
    }

    private Case linearBackwardWeight(int rows, int inputs, int outputs) {
        Tensor gradOut = floats(BF16, rows, outputs);
        Tensor x = floats(BF16, rows, inputs);
        Tensor gradWeight = floats(DType.F32, outputs, inputs);
        return new Case(
                product(rows, inputs, outputs),
                List.of(gradOut, x),
                List.of(gradWeight),
                stream -> kernels.linearBackwardWeight(stream, gradOut, x, gradWeight, false));
    }

    private static long product(long rows, long inputs, long outputs) {
        return 2 * rows * inputs * outputs;
    }

    private Case embedding() {
        Tensor tokens = integers(VOCABULARY, TOKENS);
        Tensor table = floats(BF16, VOCABULARY, HIDDEN);
        Tensor out = floats(BF16, TOKENS, HIDDEN);
        Tensor rows = table.memory().tensor(table.offset(), BF16, out.shape());
        return new Case(
                0, List.of(tokens, rows), List.of(out), stream -> kernels.embedding(stream, tokens, table, 0, out));
    }

    private Case embeddingBackward() {
        Tensor tokens = integers(VOCABULARY, TOKENS);
        Tensor gradOut = floats(BF16, TOKENS, HIDDEN);
        Tensor gradTable = floats(DType.F32, VOCABULARY, HIDDEN);
        return new Case(
                0,
                List.of(tokens, gradOut),
                List.of(gradTable),
                stream -> kernels.embeddingBackward(stream, tokens, gradOut, 0, gradTable, false));
    }

    private Case rmsNorm() {
        Tensor x = floats(BF16, TOKENS, HIDDEN);
        Tensor weight = floats(BF16, HIDDEN);
        Tensor out = floats(BF16, TOKENS, HIDDEN);
        Tensor rstd = floats(DType.F32, TOKENS);
        return new Case(
                0,
                List.of(x, weight),
                List.of(out, rstd),
                stream -> kernels.rmsNorm(stream, x, weight, 1e-6f, out, rstd));
    }

    private Case rmsNormBackward() {
        Tensor gradOut = floats(BF16, TOKENS, HIDDEN);
        Tensor x = floats(BF16, TOKENS, HIDDEN);
        Tensor weight = floats(BF16, HIDDEN);
        Tensor rstd = floats(DType.F32, TOKENS);
        Tensor residual = floats(BF16, TOKENS, HIDDEN);
        Tensor gradX = floats(BF16, TOKENS, HIDDEN);
        Tensor gradWeight = floats(DType.F32, HIDDEN);
        return new Case(
                0,
                List.of(gradOut, x, weight, rstd, residual),
                List.of(gradX, gradWeight),
                stream -> kernels.rmsNormBackward(
                        stream, gradOut, x, weight, rstd, residual, gradX, gradWeight, null, false));
    }

    private Case rope() {
        Tensor x = floats(BF16, TOKENS, 3 * HIDDEN);
        Tensor positions = positions();
        Tensor table = floats(DType.F32, SEQUENCE, HEAD_SIZE);
        // Values are not rotated.
        Tensor rotated = x.memory().tensor(x.offset(), BF16, Shape.of(TOKENS, 2 * HIDDEN));
        return new Case(
                0,
                List.of(rotated, positions, table),
                List.of(rotated),
                stream -> kernels.rope(stream, x, positions, table, 2 * HEADS, HEAD_SIZE, false));
    }

    private Case attention() {
        AttentionShape shape = new AttentionShape(BATCH, SEQUENCE, HEADS, HEADS, HEAD_SIZE, true);
        Tensor qkv = floats(BF16, TOKENS, 3 * HIDDEN);
        Tensor positions = positions();
        Tensor out = floats(BF16, TOKENS, HIDDEN);
        Tensor logSumExp = floats(DType.F32, BATCH, HEADS, SEQUENCE);
        return new Case(
                2 * causalProduct(),
                List.of(qkv, positions),
                List.of(out, logSumExp),
                stream -> kernels.attention(stream, shape, qkv, positions, out, logSumExp));
    }

    private Case attentionBackward() {
        AttentionShape shape = new AttentionShape(BATCH, SEQUENCE, HEADS, HEADS, HEAD_SIZE, true);
        Tensor gradOut = floats(BF16, TOKENS, HIDDEN);
        Tensor qkv = floats(BF16, TOKENS, 3 * HIDDEN);
        Tensor positions = positions();
        Tensor out = floats(BF16, TOKENS, HIDDEN);
        Tensor logSumExp = fill(DType.F32, 8, BATCH, HEADS, SEQUENCE);
        Tensor gradQkv = floats(BF16, TOKENS, 3 * HIDDEN);
        return new Case(
                5 * causalProduct(),
                List.of(gradOut, qkv, positions, out, logSumExp),
                List.of(gradQkv),
                stream -> kernels.attentionBackward(stream, shape, gradOut, qkv, positions, out, logSumExp, gradQkv));
    }

    /// One product of queries with keys, half of the square counted.
    private static long causalProduct() {
        return (long) TOKENS * SEQUENCE * HIDDEN;
    }

    private Case attentionDecode() {
        AttentionShape shape = new AttentionShape(1, 1, HEADS, HEADS, HEAD_SIZE, false);
        Tensor qkv = floats(BF16, 1, 3 * HIDDEN);
        Tensor position = integers(1, 1);
        NativeMemory.ALL.set(ValueLayout.JAVA_INT, position.address(), CACHED - 1);
        Tensor keys = floats(BF16, CACHED, HIDDEN);
        Tensor values = floats(BF16, CACHED, HIDDEN);
        Tensor out = floats(BF16, 1, HIDDEN);
        return new Case(
                4L * CACHED * HIDDEN,
                List.of(qkv, position, keys, values),
                List.of(out),
                stream -> kernels.attentionDecode(stream, shape, qkv, position, keys, values, out));
    }

    private Case swiglu() {
        Tensor gateUp = floats(BF16, TOKENS, 2 * INTERMEDIATE);
        Tensor out = floats(BF16, TOKENS, INTERMEDIATE);
        return new Case(0, List.of(gateUp), List.of(out), stream -> kernels.swiglu(stream, gateUp, out));
    }

    private Case swigluBackward() {
        Tensor gradOut = floats(BF16, TOKENS, INTERMEDIATE);
        Tensor gateUp = floats(BF16, TOKENS, 2 * INTERMEDIATE);
        Tensor gradGateUp = floats(BF16, TOKENS, 2 * INTERMEDIATE);
        return new Case(
                0,
                List.of(gradOut, gateUp),
                List.of(gradGateUp),
                stream -> kernels.swigluBackward(stream, gradOut, gateUp, gradGateUp, null));
    }

    private Case crossEntropy(boolean gradient) {
        Tensor logits = floats(BF16, CHUNK, VOCABULARY);
        Tensor labels = integers(VOCABULARY, CHUNK);
        Tensor scale = floats(DType.F32, 1);
        Tensor loss = floats(DType.F32, 1);
        return new Case(
                0,
                List.of(logits, labels),
                gradient ? List.of(logits) : List.of(),
                stream -> kernels.crossEntropy(stream, logits, labels, scale, loss, gradient, false));
    }

    /// Of the middle one of three ranks, whose columns are odd.
    private Case crossEntropyPart() {
        Tensor logits = floats(BF16, CHUNK, VOCABULARY / 3);
        Tensor labels = integers(VOCABULARY, CHUNK);
        Tensor part = floats(DType.F32, CHUNK, 3);
        return new Case(
                0,
                List.of(logits, labels),
                List.of(part),
                stream -> kernels.crossEntropyPart(stream, logits, labels, VOCABULARY / 3, part));
    }

    private Case crossEntropyWhole() {
        Tensor logits = floats(BF16, CHUNK, VOCABULARY / 3);
        Tensor labels = integers(VOCABULARY, CHUNK);
        Tensor parts = fill(DType.F32, 1000, 3, CHUNK, 3);
        Tensor scale = floats(DType.F32, 1);
        Tensor loss = floats(DType.F32, 1);
        return new Case(
                0,
                List.of(logits, labels, parts),
                List.of(logits),
                stream -> kernels.crossEntropyWhole(
                        stream, logits, labels, parts, scale, VOCABULARY / 3, loss, true, false));
    }

    private Case sumSquares() {
        Tensor x = floats(DType.F32, PARAMETERS);
        Tensor out = floats(DType.F32, 1);
        return new Case(0, List.of(x), List.of(out), stream -> kernels.sumSquares(stream, x, out, false));
    }

    private Case clipFactor() {
        Tensor sum = floats(DType.F32, 1);
        Tensor loss = floats(DType.F32, 1);
        Tensor unscale = fill(DType.F32, 1, 1);
        Tensor out = floats(DType.F32, 2);
        return new Case(
                0, List.of(sum, loss), List.of(out), stream -> kernels.clipFactor(stream, sum, loss, unscale, 1, out));
    }

    private Case adamw() {
        Tensor master = floats(DType.F32, PARAMETERS);
        Tensor moment1 = floats(DType.F32, PARAMETERS);
        Tensor moment2 = floats(DType.F32, PARAMETERS);
        Tensor gradient = floats(DType.F32, PARAMETERS);
        Tensor weight = floats(BF16, PARAMETERS);
        Tensor clip = fill(DType.F32, 1, 2);
        // A learning rate that keeps the values in range, however often the call is made.
        Tensor scalars = fill(DType.F32, 1e-6f, 4);
        return new Case(
                0,
                List.of(master, moment1, moment2, gradient),
                List.of(master, moment1, moment2, weight),
                stream -> kernels.adamw(
                        stream,
                        master,
                        moment1,
                        moment2,
                        gradient,
                        weight,
                        clip,
                        scalars,
                        PARAMETERS,
                        0.9f,
                        0.95f,
                        1e-8f,
                        0.1f,
                        0));
    }

    private Case zero() {
        Tensor out = floats(DType.F32, PARAMETERS);
        return new Case(0, List.of(), List.of(out), stream -> kernels.zero(stream, out));
    }

    private Case copy() {
        Tensor from = floats(DType.F32, PARAMETERS);
        Tensor to = floats(DType.F32, PARAMETERS);
        return new Case(0, List.of(from), List.of(to), stream -> kernels.copy(stream, from, to));
    }

    private Case cast() {
        Tensor from = floats(DType.F32, PARAMETERS);
        Tensor to = floats(BF16, PARAMETERS);
        return new Case(0, List.of(from), List.of(to), stream -> kernels.cast(stream, from, to));
    }

    private Case add() {
        Tensor x = fill(DType.F32, 0, PARAMETERS);
        Tensor into = floats(DType.F32, PARAMETERS);
        return new Case(0, List.of(x, into), List.of(into), stream -> kernels.add(stream, x, into));
    }

    private Tensor floats(DType dtype, long... sizes) {
        Tensor tensor = allocate(dtype, sizes);
        for (int i = 0; i < tensor.elements(); i++) {
            Vectors.put(dtype == BF16, tensor.address(), i, random.nextFloat() - 0.5f);
        }
        return tensor;
    }

    private Tensor fill(DType dtype, float value, long... sizes) {
        Tensor tensor = allocate(dtype, sizes);
        for (int i = 0; i < tensor.elements(); i++) {
            Vectors.put(dtype == BF16, tensor.address(), i, value);
        }
        return tensor;
    }

    private Tensor integers(int bound, long size) {
        Tensor tensor = allocate(DType.I32, size);
        for (int i = 0; i < size; i++) {
            NativeMemory.ALL.set(ValueLayout.JAVA_INT, tensor.address() + 4L * i, random.nextInt(bound));
        }
        return tensor;
    }

    private Tensor positions() {
        Tensor tensor = allocate(DType.I32, TOKENS);
        for (int i = 0; i < TOKENS; i++) {
            NativeMemory.ALL.set(ValueLayout.JAVA_INT, tensor.address() + 4L * i, i % SEQUENCE);
        }
        return tensor;
    }

    private Tensor allocate(DType dtype, long... sizes) {
        Tensor tensor = memory.tensor(used, dtype, Shape.of(sizes));
        used = Math.ceilDiv(used + tensor.bytes(), 4096) * 4096;
        return tensor;
    }
}
