package troika.model;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import org.jspecify.annotations.Nullable;
import troika.graph.Block;
import troika.graph.Model;
import troika.graph.Node;
import troika.graph.Op;
import troika.graph.Parameter;
import troika.graph.Portion;
import troika.graph.Range;
import troika.graph.Trace;
import troika.graph.TracedBlock;
import troika.graph.Value;
import troika.tensor.Oracle;
import troika.tensor.Shape;

/// Computes the traces of all tensor-parallel ranks in double precision, node by node and in step. Memory that
/// no node has written is NaN.
final class Interpreter {
    private final List<Rank> ranks;

    /// What one rank holds from block to block.
    record Rank(
            Model model,
            Map<String, double[]> weights,
            Map<String, double[]> gradients,
            Map<String, double[]> globals,
            Map<String, double[]> states) {}

    /// One rank's values of one block.
    private record Frame(Rank rank, Block block, TracedBlock trace, Map<Value, double[]> memory) {}

    /// @param models of all ranks, in order
    /// @param weights of the whole model, by name
    /// @param globals tokens, labels, positions, scale, loss and the like, by name
    Interpreter(List<Model> models, Map<String, double[]> weights, Map<String, double[]> globals) {
        ranks = models.stream()
                .map(model -> {
                    Map<String, double[]> held = new HashMap<>();
                    Map<String, double[]> gradients = new HashMap<>();
                    for (Parameter parameter : parameters(model)) {
                        double[] whole = known(weights, parameter.name());
                        held.put(
                                parameter.name(),
                                Arrays.stream(elements(parameter.portion()))
                                        .mapToDouble(i -> whole[i])
                                        .toArray());
                        gradients.put(parameter.name(), new double[(int) parameter.elements()]);
                    }
                    Map<String, double[]> own = new HashMap<>();
                    globals.forEach((name, values) -> own.put(name, values.clone()));
                    for (Model.Constant constant : model.constants()) {
                        float[] values = constant.values().get();
                        double[] table = new double[values.length];
                        Arrays.setAll(table, i -> values[i]);
                        own.put(constant.name(), table);
                    }
                    return new Rank(model, held, gradients, own, new HashMap<>());
                })
                .toList();
    }

    List<Rank> ranks() {
        return ranks;
    }

    static List<Parameter> parameters(Model model) {
        return model.blocks().stream()
                .flatMap(block -> block.parameters().values().stream())
                .distinct()
                .toList();
    }

    /// Which elements of the whole weight a rank's are.
    static int[] elements(Portion portion) {
        long width = portion.whole().elements() / portion.whole().size(0);
        return portion.rows().stream()
                .flatMapToInt(rows -> LongStream.range(rows.start(), rows.end())
                        .flatMap(row -> LongStream.range(
                                        portion.columns().start(),
                                        portion.columns().end())
                                .map(column -> row * width + column))
                        .mapToInt(Math::toIntExact))
                .toArray();
    }

    /// Runs all blocks, and back where the settings say so; returns the last block's output on each rank, if
    /// it has one.
    List<double @Nullable []> run(Trace.Settings settings) {
        List<List<Frame>> blocks = new ArrayList<>();
        List<double @Nullable []> x = new ArrayList<>();
        List<@Nullable Shape> shapes = new ArrayList<>();
        for (Rank _ : ranks) {
            x.add(null);
            shapes.add(null);
        }
        for (int b = 0; b < ranks.getFirst().model().blocks().size(); b++) {
            List<Frame> frames = new ArrayList<>();
            for (int r = 0; r < ranks.size(); r++) {
                Block block = ranks.get(r).model().blocks().get(b);
                TracedBlock trace = TracedBlock.of(block, settings, shapes.get(r));
                Frame frame = new Frame(ranks.get(r), block, trace, new HashMap<>());
                bind(frame, trace.input(), x.get(r));
                frames.add(frame);
            }
            compute(frames, frames.stream().map(f -> f.trace().forward()).toList());
            for (int r = 0; r < ranks.size(); r++) {
                Value output = frames.get(r).trace().output();
                x.set(r, output == null ? null : read(frames.get(r), output));
                shapes.set(r, output == null ? null : output.shape());
            }
            blocks.add(frames);
        }
        if (settings.mode() == Trace.Mode.TRAIN) {
            backward(blocks);
        }
        return x;
    }

    private void backward(List<List<Frame>> blocks) {
        List<double @Nullable []> gradient = new ArrayList<>();
        for (Rank _ : ranks) {
            gradient.add(null);
        }
        for (List<Frame> frames : blocks.reversed()) {
            for (int r = 0; r < ranks.size(); r++) {
                bind(frames.get(r), frames.get(r).trace().outputGradient(), gradient.get(r));
            }
            compute(frames, frames.stream().map(f -> f.trace().backwardInput()).toList());
            compute(frames, frames.stream().map(f -> f.trace().backwardWeight()).toList());
            for (int r = 0; r < ranks.size(); r++) {
                Value input = frames.get(r).trace().inputGradient();
                gradient.set(r, input == null ? null : read(frames.get(r), input));
            }
        }
    }

    private static void bind(Frame frame, @Nullable Value value, double @Nullable [] content) {
        if (value != null && content != null) {
            write(frame, value, content);
        }
    }

    private static void compute(List<Frame> frames, List<List<Node>> nodes) {
        for (int n = 0; n < nodes.getFirst().size(); n++) {
            int at = n;
            List<Node> step = nodes.stream().map(list -> list.get(at)).toList();
            Op op = step.getFirst().op();
            assertThat(step).allSatisfy(node -> assertThat(node.op()).hasSameClassAs(op));
            assertThat(nodes).allSatisfy(list -> assertThat(list).hasSameSizeAs(nodes.getFirst()));
            if (op.collective()) {
                collective(op, frames, step);
            } else {
                for (int r = 0; r < frames.size(); r++) {
                    compute(frames.get(r), step.get(r));
                }
            }
        }
    }

    private static void collective(Op op, List<Frame> frames, List<Node> step) {
        List<double[]> parts = new ArrayList<>();
        for (int r = 0; r < frames.size(); r++) {
            Node node = step.get(r);
            parts.add(read(frames.get(r), op instanceof Op.AllReduce ? out(node, 0) : in(node, 0)));
        }
        double[] all = op instanceof Op.AllGather
                ? parts.stream().flatMapToDouble(Arrays::stream).toArray()
                : parts.stream().reduce(new double[parts.getFirst().length], Interpreter::sum);
        int start = 0;
        for (int r = 0; r < frames.size(); r++) {
            Value out = out(step.get(r), 0);
            int size = (int) out.shape().elements();
            boolean scattered = op instanceof Op.ReduceScatter;
            write(frames.get(r), out, scattered ? Arrays.copyOfRange(all, start, start + size) : all);
            start += size;
        }
        if (op instanceof Op.ReduceScatter) {
            assertThat(start).isEqualTo(all.length);
        }
    }

    private static void compute(Frame frame, Node node) {
        switch (node.op()) {
            case Op.Embedding op -> {
                double[] table = read(frame, node, 1);
                int[] tokens = ints(frame, node, 0);
                int columns = columns(out(node, 0));
                double[] out = new double[tokens.length * columns];
                for (int t = 0; t < tokens.length; t++) {
                    int row = (int) (tokens[t] - op.first());
                    if (row >= 0 && row < table.length / columns) {
                        System.arraycopy(table, row * columns, out, t * columns, columns);
                    }
                }
                write(frame, out(node, 0), out);
            }
            case Op.EmbeddingBackward op -> {
                int[] tokens = ints(frame, node, 0);
                double[] gradient = read(frame, node, 1);
                double[] table = read(frame, out(node, 0));
                int columns = columns(out(node, 0));
                for (int i = 0; i < gradient.length; i++) {
                    int row = (int) (tokens[i / columns] - op.first());
                    if (row >= 0 && row < table.length / columns) {
                        table[row * columns + i % columns] += gradient[i];
                    }
                }
                write(frame, out(node, 0), table);
            }
            case Op.RmsNorm op -> {
                double[] x = read(frame, node, 0);
                write(frame, out(node, 0), Oracle.rmsNorm(x, read(frame, node, 1), op.epsilon()));
                write(frame, out(node, 1), Oracle.rstd(x, columns(in(node, 0)), op.epsilon()));
            }
            case Op.RmsNormBackward _ -> {
                double[] gradient = read(frame, node, 0);
                double[] x = read(frame, node, 1);
                double[] weight = read(frame, node, 2);
                double[] rstd = read(frame, node, 3);
                double[] gradX = Oracle.rmsNormGradX(gradient, x, weight, rstd);
                write(frame, out(node, 1), has(node, 4) ? sum(gradX, read(frame, node, 4)) : gradX);
                add(frame, out(node, 0), Oracle.rmsNormGradWeight(gradient, x, rstd, weight.length));
                if (node.outputs().size() > 2) {
                    double[] again = x.clone();
                    Arrays.setAll(again, i -> weight[i % weight.length] * x[i] * rstd[i / weight.length]);
                    write(frame, out(node, 2), again);
                }
            }
            case Op.Linear _ -> {
                int inner = columns(in(node, 0));
                double[] x = read(frame, node, 0);
                double[] weight = read(frame, node, 1);
                int outer = weight.length / inner;
                double[] product =
                        Oracle.product(x, Oracle.transposed(weight, outer, inner), x.length / inner, inner, outer);
                write(frame, out(node, 0), has(node, 2) ? sum(product, read(frame, node, 2)) : product);
            }
            case Op.LinearBackwardInput _ -> {
                int outer = columns(in(node, 0));
                double[] gradient = read(frame, node, 0);
                write(
                        frame,
                        out(node, 0),
                        Oracle.product(
                                gradient, read(frame, node, 1), gradient.length / outer, outer, columns(out(node, 0))));
            }
            case Op.LinearBackwardWeight _ -> {
                int outer = columns(in(node, 0));
                int inner = columns(in(node, 1));
                double[] gradient = read(frame, node, 0);
                int rows = gradient.length / outer;
                add(
                        frame,
                        out(node, 0),
                        Oracle.product(
                                Oracle.transposed(gradient, rows, outer), read(frame, node, 1), outer, rows, inner));
            }
            case Op.Rope op ->
                write(
                        frame,
                        out(node, 0),
                        Oracle.rope(
                                read(frame, node, 0),
                                columns(in(node, 0)),
                                ints(frame, node, 1),
                                read(frame, node, 2),
                                op.heads(),
                                op.headSize(),
                                op.inverse()));
            case Op.Attention op -> {
                assertThat(op.shape().heads() % op.shape().keyValueHeads()).isZero();
                Oracle.Attention result = Oracle.attention(op.shape(), read(frame, node, 0), ints(frame, node, 1));
                write(frame, out(node, 0), result.out());
                write(frame, out(node, 1), result.logSumExp());
            }
            case Op.AttentionBackward op ->
                write(
                        frame,
                        out(node, 0),
                        Oracle.attentionBackward(
                                op.shape(), read(frame, node, 0), read(frame, node, 1), ints(frame, node, 2)));
            case Op.AttentionDecode op -> {
                // At position 0 a query sees its own value only.
                assertThat(ints(frame, node, 1)).containsExactly(0);
                double[] qkv = read(frame, node, 0);
                int size = op.shape().headSize();
                int group = op.shape().heads() / op.shape().keyValueHeads();
                double[] out = new double[op.shape().heads() * size];
                Arrays.setAll(
                        out,
                        i -> qkv[
                                (op.shape().heads() + op.shape().keyValueHeads() + i / size / group) * size
                                        + i % size]);
                write(frame, out(node, 2), out);
            }
            case Op.SwiGlu _ -> write(frame, out(node, 0), Oracle.swiglu(read(frame, node, 0), columns(out(node, 0))));
            case Op.SwiGluBackward _ -> {
                double[] gateUp = read(frame, node, 1);
                int columns = columns(in(node, 0));
                write(frame, out(node, 0), Oracle.swigluBackward(read(frame, node, 0), gateUp, columns));
                if (node.outputs().size() > 1) {
                    write(frame, out(node, 1), Oracle.swiglu(gateUp, columns));
                }
            }
            case Op.CrossEntropy op -> {
                Oracle.CrossEntropy result =
                        Oracle.crossEntropy(read(frame, node, 0), ints(frame, node, 1), read(frame, node, 2)[0]);
                add(frame, out(node, 0), result.loss());
                if (op.gradient()) {
                    write(frame, out(node, 1), result.gradient());
                }
            }
            case Op.CrossEntropyPart op -> write(frame, out(node, 0), part(frame, node, op.first()));
            case Op.CrossEntropyWhole op -> whole(frame, node, op);
            case Op.Add _ -> add(frame, out(node, 0), read(frame, node, 0));
            default -> throw new IllegalStateException("a trace has no " + node.op());
        }
    }

    private static double[] part(Frame frame, Node node, long first) {
        double[] logits = read(frame, node, 0);
        int[] labels = ints(frame, node, 1);
        int columns = columns(in(node, 0));
        double[] part = new double[labels.length * 3];
        for (int t = 0; t < labels.length; t++) {
            double[] row = Arrays.copyOfRange(logits, t * columns, (t + 1) * columns);
            double max = Arrays.stream(row).max().orElseThrow();
            int label = (int) (labels[t] - first);
            part[3 * t] = max;
            part[3 * t + 1] = Arrays.stream(row).map(x -> Math.exp(x - max)).sum();
            part[3 * t + 2] = label >= 0 && label < columns ? row[label] : Double.NEGATIVE_INFINITY;
        }
        return part;
    }

    private static void whole(Frame frame, Node node, Op.CrossEntropyWhole op) {
        double[] logits = read(frame, node, 0);
        int[] labels = ints(frame, node, 1);
        double[] parts = read(frame, node, 2);
        double scale = read(frame, node, 3)[0];
        int columns = columns(in(node, 0));
        double loss = 0;
        double[] gradient = new double[logits.length];
        for (int t = 0; t < labels.length; t++) {
            if (labels[t] < 0) {
                continue;
            }
            double sum = 0;
            double target = Double.NEGATIVE_INFINITY;
            for (int at = 3 * t; at < parts.length; at += 3 * labels.length) {
                sum += parts[at + 1] * Math.exp(parts[at]);
                target = Math.max(target, parts[at + 2]);
            }
            loss += scale * (Math.log(sum) - target);
            for (int i = 0; i < columns; i++) {
                int hit = i + op.first() == labels[t] ? 1 : 0;
                gradient[t * columns + i] = scale * (Math.exp(logits[t * columns + i]) / sum - hit);
            }
        }
        add(frame, out(node, 0), loss);
        if (op.gradient()) {
            write(frame, out(node, 1), gradient);
        }
    }

    // Memory.

    private static double[] root(Frame frame, Value value) {
        Value root = value.root();
        return switch (root.kind()) {
            case PARAMETER ->
                known(frame.rank().weights(), parameter(frame, root).name());
            case PARAMETER_GRADIENT ->
                known(frame.rank().gradients(), parameter(frame, root).name());
            case GLOBAL -> known(frame.rank().globals(), root.name());
            case STATE -> frame.rank().states().computeIfAbsent(root.name(), _ -> unwritten(root));
            case LOCAL, BLOCK_INPUT, OUTPUT_GRADIENT -> frame.memory().computeIfAbsent(root, Interpreter::unwritten);
        };
    }

    private static double[] unwritten(Value value) {
        double[] memory = new double[(int) value.shape().elements()];
        Arrays.fill(memory, Double.NaN);
        return memory;
    }

    private static Parameter parameter(Frame frame, Value value) {
        Parameter parameter = frame.block().parameters().get(value.name());
        if (parameter == null) {
            throw new IllegalStateException("no parameter " + value.name());
        }
        return parameter;
    }

    private static double[] known(Map<String, double[]> map, String name) {
        double[] known = map.get(name);
        if (known == null) {
            throw new IllegalStateException("there is no " + name);
        }
        return known;
    }

    private static double[] read(Frame frame, Value value) {
        int offset = (int) value.rootOffset();
        return Arrays.copyOfRange(
                root(frame, value), offset, offset + (int) value.shape().elements());
    }

    private static double[] read(Frame frame, Node node, int input) {
        return read(frame, in(node, input));
    }

    private static int[] ints(Frame frame, Node node, int input) {
        return Arrays.stream(read(frame, node, input)).mapToInt(x -> (int) x).toArray();
    }

    private static void write(Frame frame, Value value, double[] content) {
        assertThat((long) content.length)
                .as("%s", value)
                .isEqualTo(value.shape().elements());
        System.arraycopy(content, 0, root(frame, value), (int) value.rootOffset(), content.length);
    }

    private static void add(Frame frame, Value value, double... content) {
        write(frame, value, sum(read(frame, value), content));
    }

    private static double[] sum(double[] a, double[] b) {
        assertThat(a).hasSameSizeAs(b);
        double[] sum = new double[a.length];
        Arrays.setAll(sum, i -> a[i] + b[i]);
        return sum;
    }

    private static boolean has(Node node, int input) {
        return node.inputs().get(input) != null;
    }

    private static Value in(Node node, int i) {
        Value value = node.inputs().get(i);
        if (value == null) {
            throw new IllegalStateException(node + " lacks input " + i);
        }
        return value;
    }

    private static Value out(Node node, int i) {
        return node.outputs().get(i);
    }

    private static int columns(Value value) {
        return (int) value.shape().size(-1);
    }

    /// The gradients of the whole model's weights: summed over the ranks that hold copies, where these say so,
    /// and the same on all ranks that hold an element.
    Map<String, double[]> gradients() {
        Map<String, double[]> whole = new LinkedHashMap<>();
        for (Rank rank : ranks) {
            for (Parameter parameter : parameters(rank.model())) {
                double[] all = whole.computeIfAbsent(parameter.name(), _ -> {
                    double[] none = new double[(int) parameter.portion().whole().elements()];
                    Arrays.fill(none, Double.NaN);
                    return none;
                });
                double[] own = summed(rank, parameter);
                int[] elements = elements(parameter.portion());
                for (int i = 0; i < elements.length; i++) {
                    double known = all[elements[i]];
                    if (Math.abs(own[i] - known) > TensorParallelTest.TOLERANCE.value) {
                        throw new AssertionError(
                                parameter.name() + ": " + own[i] + " on one rank, " + known + " on another");
                    }
                    all[elements[i]] = own[i];
                }
            }
        }
        return whole;
    }

    private double[] summed(Rank rank, Parameter parameter) {
        double[] sum = known(rank.gradients(), parameter.name()).clone();
        for (Parameter.Copy copy : parameter.copies()) {
            if (copy.axis() != null) {
                List<Integer> all = IntStream.range(0, ranks.size()).boxed().toList();
                List<Integer> holders = rank.model().axes().getOrDefault(copy.axis(), all);
                assertThat(holders).contains(ranks.indexOf(rank));
                int width = sum.length / (int) parameter.shape().size(0);
                int at = (int) copy.rows().start() * width;
                Arrays.fill(sum, at, (int) copy.rows().end() * width, 0);
                for (int holder : holders) {
                    double[] theirs = copied(ranks.get(holder), parameter.name(), copy.axis());
                    assertThat((long) theirs.length).isEqualTo(copy.rows().size() * width);
                    for (int i = 0; i < theirs.length; i++) {
                        sum[at + i] += theirs[i];
                    }
                }
            }
        }
        return sum;
    }

    /// The gradient of the rows that a rank holds as others do.
    private static double[] copied(Rank rank, String name, String axis) {
        Parameter parameter = parameters(rank.model()).stream()
                .filter(p -> p.name().equals(name))
                .findFirst()
                .orElseThrow();
        Range rows = parameter.copies().stream()
                .filter(copy -> axis.equals(copy.axis()))
                .findFirst()
                .orElseThrow()
                .rows();
        double[] gradient = known(rank.gradients(), name);
        int width = gradient.length / (int) parameter.shape().size(0);
        return Arrays.copyOfRange(gradient, (int) rows.start() * width, (int) rows.end() * width);
    }
}
