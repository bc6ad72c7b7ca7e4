package troika.plan;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import troika.graph.Block;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.graph.Range;
import troika.graph.Shares;
import troika.graph.TensorParallel;
import troika.graph.Trace;
import troika.graph.TracedBlock;
import troika.tensor.Shape;

/// Compiles a model, a layout and policies into programs.
///
/// The work of all ranks is emitted together ([StepOrder]) as instructions in issue order, on buffers
/// without places ([RankTensors] makes what lasts, [RankStep] and [RankUpdate] what a step makes); then
/// passes settle which writes overwrite ([RankBuilder#overwriteFirst]), where buffers lie ([Placement]) and
/// who waits for whom ([Dependencies]). Blocks are traced once for each kind and shape.
public final class Compiler {
    private final Function<TensorParallel, Model> models;
    private final Layout layout;
    private final PlanOptions options;
    private final Model whole;
    private final Shares microbatches;
    private final List<RankPart> parts = new ArrayList<>();
    private final Map<TensorParallel, Model> modelOf = new HashMap<>();
    private final Map<TraceKey, TracedBlock> traces = new HashMap<>();

    private record RankPlan(RankProgram train, RankProgram evaluate, MemoryPlan memory) {}

    private record TraceKey(String kind, Trace.Settings settings, TensorParallel tensor) {}

    /// @param models the model with the shapes of a tensor-parallel rank
    public Compiler(Function<TensorParallel, Model> models, Layout layout, PlanOptions options) {
        this.models = models;
        this.layout = layout;
        this.options = options;
        this.whole = model(TensorParallel.NONE);
        this.microbatches = shareBatch();
        List<RankPart> untied = IntStream.range(0, layout.worldSize())
                .mapToObj(rank -> part(rank, List.of()))
                .toList();
        List<String> tied = tied(untied);
        for (RankPart part : untied) {
            parts.add(tied.isEmpty() ? part : part(part.rank(), tied));
        }
    }

    /// By rank, the parameter groups that it holds.
    public List<List<ParameterGroup>> groups() {
        return parts.stream().map(RankPart::groups).toList();
    }

    /// The programs of a training run, which share one arena a rank.
    public TrainingPlan training() {
        List<RankTensors> tensors = new ArrayList<>();
        for (RankPart part : parts) {
            RankTensors own = new RankTensors(part, options);
            own.addTraining();
            tensors.add(own);
        }
        List<RankBuilder> steps = emit(tensors, Trace.Mode.TRAIN);
        List<RankBuilder> evaluations = emit(tensors, Trace.Mode.EVALUATE);
        boolean overlap = options.parallelism().overlap();
        List<RankPlan> plans = IntStream.range(0, parts.size())
                .parallel()
                .mapToObj(rank -> {
                    Placement stepPlaces = new Placement(steps.get(rank));
                    Placement evaluationPlaces = new Placement(evaluations.get(rank));
                    long bytes = Math.max(stepPlaces.deviceBytes(), evaluationPlaces.deviceBytes());
                    Map<String, List<Integer>> axes = parts.get(rank).axes();
                    return new RankPlan(
                            Assembly.program(steps.get(rank), stepPlaces, bytes, axes, overlap),
                            Assembly.program(evaluations.get(rank), evaluationPlaces, bytes, axes, overlap),
                            stepPlaces.memoryPlan(bytes));
                })
                .toList();
        return new TrainingPlan(
                new StepProgram(
                        "train",
                        blockNames(),
                        plans.stream().map(RankPlan::train).toList()),
                new StepProgram(
                        "evaluate",
                        blockNames(),
                        plans.stream().map(RankPlan::evaluate).toList()),
                layout,
                groups(),
                plans.stream().map(RankPlan::memory).toList(),
                parts.stream().map(RankPart::microbatches).toList());
    }

    /// Emits a step or an evaluation on copies of the ranks' tensors.
    private List<RankBuilder> emit(List<RankTensors> tensors, Trace.Mode mode) {
        List<RankStep> ranks = new ArrayList<>();
        List<RankUpdate> updates = new ArrayList<>();
        Map<String, Long> numbers = numbers();
        for (RankTensors own : tensors) {
            RankStep step = new RankStep(this, own.on(own.builder().copy()), mode, options.sequence());
            ranks.add(step);
            updates.add(new RankUpdate(step, options, numbers));
        }
        StepOrder order = new StepOrder(this, ranks, updates);
        if (mode == Trace.Mode.TRAIN) {
            order.train();
        } else {
            order.evaluate();
        }
        List<RankBuilder> builders = ranks.stream().map(RankStep::builder).toList();
        builders.forEach(RankBuilder::overwriteFirst);
        return builders;
    }

    /// The program that decodes one token on one rank, with weights and key-value cache in its
    /// arena. `host logits` is the result.
    public StepProgram decoding() {
        RankTensors tensors = new RankTensors(parts.getFirst(), options);
        tensors.addDecoding();
        RankBuilder builder = tensors.builder();
        tensors.emitDecodingInputs();
        RankStep step = new RankStep(this, tensors, Trace.Mode.DECODE, 1);
        for (int block = 0; block < blockCount(); block++) {
            step.forward(block, 0);
        }
        int output = step.input(blockCount(), 0);
        int logits = builder.allocate(
                "host logits",
                TensorSpec.Role.INPUTS,
                true,
                options.dtype(),
                builder.tensors().get(output).shape());
        builder.emit(Instruction.Kind.REPORT, Lane.DOWNLOAD, List.of(RankTensors.copy(output, logits)));
        Placement places = new Placement(builder);
        return new StepProgram(
                "decode",
                blockNames(),
                List.of(Assembly.program(builder, places, places.deviceBytes(), Map.of(), true)));
    }

    PlanOptions options() {
        return options;
    }

    Layout layout() {
        return layout;
    }

    int blockCount() {
        return whole.blocks().size();
    }

    /// Of a step, over all replicas.
    int microbatches() {
        return microbatches.parts();
    }

    /// The block, traced on the shape of its input tensor (-1 for none).
    TracedBlock trace(
            Block block, RankPart part, Trace.Mode mode, int batch, int sequence, RankBuilder builder, int input) {
        @Nullable Shape shape = input < 0 ? null : builder.tensors().get(input).shape();
        Trace.Settings settings = new Trace.Settings(
                mode, options.dtype(), batch, sequence, options.packed(), options.rebuild(), options.logitsAtATime());
        return traces.computeIfAbsent(
                new TraceKey(block.kind(), settings, part.tensor()), _ -> TracedBlock.of(block, settings, shape));
    }

    private Model model(TensorParallel tensor) {
        return modelOf.computeIfAbsent(tensor, models);
    }

    /// Sequences of each microbatch: evenly, or as fast as the replicas are that it passes. Of a stage's
    /// replicas only how they compare with one another counts.
    private Shares shareBatch() {
        int count = Math.multiplyExact(layout.microbatchUnit(), options.accumulation());
        List<Double> weights = new ArrayList<>();
        for (int m = 0; m < count; m++) {
            double weight = Double.MAX_VALUE;
            for (int stage = 0; stage < layout.stages().size(); stage++) {
                int replicas = layout.stages().get(stage).dataParallel();
                weight = Math.min(weight, layout.weight(stage, m % replicas) * replicas / layout.weight(stage));
            }
            weights.add(weight);
        }
        return new Shares(options.batch(), weights, 0);
    }

    private RankPart part(int rank, List<String> tied) {
        Layout.Place place = layout.place(rank);
        Layout.Stage stage = layout.stages().get(place.stage());
        TensorParallel tensor = tensor(place, stage);
        Model model = model(tensor);
        List<List<Integer>> chunks = chunks(place.stage());
        List<Integer> group = layout.dataGroup(rank);
        List<Integer> tensorGroup = layout.tensorGroup(rank);
        Map<String, List<Integer>> axes = new LinkedHashMap<>();
        axes.put("data", group);
        axes.put(TensorParallel.AXIS, tensorGroup);
        model.axes()
                .forEach((name, indices) ->
                        axes.put(name, indices.stream().map(tensorGroup::get).toList()));
        axes.put("world", IntStream.range(0, layout.worldSize()).boxed().toList());
        List<ParameterGroup> groups = ParameterGroup.of(RankPart.blocks(model, chunks), group.size());
        List<Microbatch> own = new ArrayList<>();
        for (int m = place.replica(); m < microbatches.parts(); m += stage.dataParallel()) {
            own.add(new Microbatch(m, (int) microbatches.size(m)));
        }
        List<String> shared = groups.stream()
                .flatMap(g -> g.parameters().stream())
                .map(Parameter::name)
                .filter(tied::contains)
                .toList();
        return new RankPart(
                rank,
                place,
                tensor,
                model,
                chunks,
                groups,
                RankPart.groupsByBlock(model, chunks, groups),
                own,
                shared,
                axes);
    }

    private TensorParallel tensor(Layout.Place place, Layout.Stage stage) {
        if (stage.tensorParallel() == 1) {
            return TensorParallel.NONE;
        }
        // All replicas cut alike, since their gradients are summed.
        List<Double> weights = IntStream.range(0, stage.tensorParallel())
                .mapToObj(index -> IntStream.range(0, stage.dataParallel())
                        .mapToDouble(replica ->
                                layout.shares().get(stage.replica(replica).get(index)))
                        .sum())
                .toList();
        return new TensorParallel(
                stage.tensorParallel(),
                place.tensor(),
                weights,
                options.parallelism().sequence());
    }

    /// The blocks of each of a stage's chunks: the embedding goes with the first layers, the head with the
    /// last.
    private List<List<Integer>> chunks(int stage) {
        int count = options.parallelism().chunks();
        int layers = blockCount() - 2;
        double head = (double) elements(whole.blocks().getLast())
                / elements(whole.blocks().get(1));
        List<Range> ranges = layout.layers(layers, count, head);
        List<List<Integer>> chunks = new ArrayList<>();
        for (int chunk = 0; chunk < count; chunk++) {
            int virtual = chunk * layout.stages().size() + stage;
            int first = virtual == 0 ? 0 : (int) ranges.get(virtual).start() + 1;
            int last = virtual == ranges.size() - 1
                    ? layers + 1
                    : (int) ranges.get(virtual).end();
            chunks.add(IntStream.rangeClosed(first, last).boxed().toList());
        }
        return chunks;
    }

    /// Whether the head's weight is the embedding's.
    boolean tiedHead() {
        return whole.blocks().getLast().parameters().values().stream()
                .map(Parameter::name)
                .anyMatch(name -> whole.blocks().getFirst().parameters().values().stream()
                        .anyMatch(own -> own.name().equals(name)));
    }

    private static long elements(Block block) {
        return block.parameters().values().stream()
                .mapToLong(Parameter::elements)
                .sum();
    }

    /// The names of weights that blocks of several stages use.
    private static List<String> tied(List<RankPart> parts) {
        Map<String, Integer> stageOf = new HashMap<>();
        List<String> tied = new ArrayList<>();
        for (RankPart part : parts) {
            for (ParameterGroup group : part.groups()) {
                for (Parameter parameter : group.parameters()) {
                    int stage = part.place().stage();
                    if (stageOf.computeIfAbsent(parameter.name(), _ -> stage) != stage
                            && !tied.contains(parameter.name())) {
                        tied.add(parameter.name());
                    }
                }
            }
        }
        return tied;
    }

    /// The number of each weight's first element among those of the whole model.
    private Map<String, Long> numbers() {
        Map<String, Long> numbers = new HashMap<>();
        long first = 0;
        for (ParameterGroup group : ParameterGroup.of(whole.blocks(), 1)) {
            for (int i = 0; i < group.parameters().size(); i++) {
                numbers.put(
                        group.parameters().get(i).name(),
                        first + group.offsets().get(i));
            }
            first += group.parameterElements();
        }
        return numbers;
    }

    private List<String> blockNames() {
        return whole.blocks().stream().map(Block::name).toList();
    }
}
