package troika.plan;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import troika.graph.Block;
import troika.graph.Model;
import troika.graph.Op;
import troika.graph.Shares;
import troika.graph.Trace;
import troika.graph.TracedBlock;
import troika.tensor.Shape;

/// Compiles a model, a layout and policies into programs.
///
/// A rank's work is emitted as instructions in issue order, on buffers without places ([RankTensors] makes
/// what lasts, [TrainStep] what a step makes); then passes settle which writes overwrite
/// ([RankBuilder#overwriteFirst]), where buffers lie ([Placement]) and who waits for whom
/// ([Dependencies]). Blocks are traced once for each kind and shape.
public final class Compiler {
    private final Model model;
    private final Layout layout;
    private final PlanOptions options;
    private final List<ParameterGroup> groups;
    private final Shares microbatches;
    private final Map<TraceKey, TracedBlock> traces = new HashMap<>();

    private record TraceKey(String kind, Trace.Settings settings) {}

    public Compiler(Model model, Layout layout, PlanOptions options) {
        this.model = model;
        this.layout = layout;
        this.options = options;
        this.groups = ParameterGroup.of(model.blocks(), layout.microbatchUnit());
        this.microbatches = new Shares(options.batch(), layout.microbatchUnit() * options.accumulation());
    }

    public List<ParameterGroup> groups() {
        return groups;
    }

    /// The programs of a training run, which share one arena a rank.
    public TrainingPlan training() {
        List<RankProgram> train = new ArrayList<>();
        List<RankProgram> evaluate = new ArrayList<>();
        List<MemoryPlan> memory = new ArrayList<>();
        List<List<Microbatch>> batches = new ArrayList<>();
        for (int rank = 0; rank < layout.worldSize(); rank++) {
            RankTensors tensors = new RankTensors(rank, layout.microbatchUnit(), options, model, groups);
            tensors.addTraining(localBatches(rank));
            RankBuilder step = tensors.builder().copy();
            new TrainStep(this, tensors.on(step), step).emit();
            RankBuilder evaluation = tensors.builder().copy();
            emitEvaluation(tensors.on(evaluation), evaluation);
            step.overwriteFirst();
            evaluation.overwriteFirst();
            Placement stepPlaces = new Placement(step);
            Placement evaluationPlaces = new Placement(evaluation);
            long bytes = Math.max(stepPlaces.deviceBytes(), evaluationPlaces.deviceBytes());
            train.add(Assembly.program(step, stepPlaces, bytes));
            evaluate.add(Assembly.program(evaluation, evaluationPlaces, bytes));
            memory.add(stepPlaces.memoryPlan(bytes));
            batches.add(microbatches(rank));
        }
        return new TrainingPlan(
                new StepProgram("train", blockNames(), train),
                new StepProgram("evaluate", blockNames(), evaluate),
                Collections.nCopies(layout.worldSize(), groups),
                memory,
                batches);
    }

    /// The program that decodes one token on one rank, with weights and key-value cache in its
    /// arena. `host logits` is the result.
    public StepProgram decoding() {
        RankTensors tensors = new RankTensors(0, 1, options, model, groups);
        tensors.addDecoding();
        RankBuilder builder = tensors.builder();
        tensors.emitDecodingInputs();
        int output = forward(tensors, builder, Trace.Mode.DECODE, 0, 1, 1);
        int logits = builder.allocate(
                "host logits",
                TensorSpec.Role.INPUTS,
                true,
                options.dtype(),
                builder.tensors().get(output).shape());
        builder.emit(Instruction.Kind.REPORT, Lane.DOWNLOAD, List.of(RankTensors.copy(output, logits)));
        Placement places = new Placement(builder);
        return new StepProgram(
                "decode", blockNames(), List.of(Assembly.program(builder, places, places.deviceBytes())));
    }

    List<Block> blocks() {
        return model.blocks();
    }

    PlanOptions options() {
        return options;
    }

    /// Sequences of each microbatch of a rank: microbatch m of the step goes to replica m mod ranks.
    List<Integer> localBatches(int rank) {
        int ranks = layout.microbatchUnit();
        return IntStream.range(0, options.accumulation())
                .mapToObj(m -> (int) microbatches.size(m * ranks + rank))
                .toList();
    }

    private List<Microbatch> microbatches(int rank) {
        List<Integer> batches = localBatches(rank);
        return IntStream.range(0, batches.size())
                .mapToObj(m -> new Microbatch(m * layout.microbatchUnit() + rank, batches.get(m)))
                .toList();
    }

    /// The block, traced on the shape of its input tensor (-1 for none).
    TracedBlock trace(Block block, Trace.Mode mode, int batch, int sequence, RankBuilder builder, int input) {
        @Nullable Shape shape = input < 0 ? null : builder.tensors().get(input).shape();
        Trace.Settings settings = new Trace.Settings(
                mode, options.dtype(), batch, sequence, options.packed(), options.rebuild(), options.logitsAtATime());
        return traces.computeIfAbsent(
                new TraceKey(block.kind(), settings), _ -> TracedBlock.of(block, settings, shape));
    }

    private void emitEvaluation(RankTensors tensors, RankBuilder builder) {
        List<Integer> batches = localBatches(tensors.rank());
        tensors.emitInputs(batches.size());
        for (int m = 0; m < batches.size(); m++) {
            if (batches.get(m) > 0) {
                forward(tensors, builder, Trace.Mode.EVALUATE, m, batches.get(m), options.sequence());
            }
        }
        int stats = builder.find("stats");
        if (tensors.shards() > 1) {
            builder.emit(
                    Instruction.Kind.NORM,
                    Lane.COMMUNICATION,
                    List.of(new Call(new Op.AllReduce("data"), List.of(), List.of(builder.find("loss")))));
        }
        builder.emit(
                Instruction.Kind.REPORT, Lane.DOWNLOAD, List.of(RankTensors.copy(stats, builder.find("host stats"))));
    }

    /// Emits a forward without backward; returns the last block's output, -1 where it has none.
    private int forward(RankTensors tensors, RankBuilder builder, Trace.Mode mode, int m, int batch, int sequence) {
        int x = -1;
        for (int b = 0; b < model.blocks().size(); b++) {
            Block block = model.blocks().get(b);
            TracedBlock trace = trace(block, mode, batch, sequence, builder, x);
            Binding binding = new Binding(builder, tensors, block, trace, m, x, parameter -> {
                throw new IllegalStateException("no gradients in " + mode + ", not even of " + parameter.name());
            });
            builder.emit(Instruction.Kind.FORWARD, Lane.COMPUTE, b, -1, m, binding.calls(trace.forward()));
            x = binding.output();
        }
        return x;
    }

    private List<String> blockNames() {
        return model.blocks().stream().map(Block::name).toList();
    }
}
