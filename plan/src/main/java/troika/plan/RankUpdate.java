package troika.plan;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import troika.graph.Op;
import troika.graph.Parameter;
import troika.graph.Range;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Emits one rank's instructions of parameter groups: their gradients leave, are measured and change the
/// weights, and weights arrive. [StepOrder] says when, in one order for all ranks.
final class RankUpdate {
    private final RankStep step;
    private final RankPart part;
    private final RankTensors tensors;
    private final RankBuilder builder;
    private final PlanOptions options;
    private final Map<String, Long> numbers;
    /// Groups whose shard of the summed gradients has its first part.
    private final List<ParameterGroup> begun = new ArrayList<>();

    /// @param numbers of the whole model's weights: of each weight's first element, for stochastic rounding
    RankUpdate(RankStep step, PlanOptions options, Map<String, Long> numbers) {
        this.step = step;
        this.part = step.part();
        this.tensors = step.tensors();
        this.builder = step.builder();
        this.options = options;
        this.numbers = numbers;
    }

    RankPart part() {
        return part;
    }

    /// Gathers a group's weights to a place of their own; returns the tensor of each weight, by name.
    Map<String, Integer> gather(ParameterGroup group) {
        int shard = builder.find("weights:" + group.name());
        int full = builder.allocate(
                "gathered:" + group.name(),
                TensorSpec.Role.GATHERED_WEIGHTS,
                false,
                options.dtype(),
                new Shape(group.elements()));
        communicate(
                Instruction.Kind.GATHER,
                group,
                -1,
                List.of(new Call(new Op.AllGather("data"), List.of(shard), List.of(full))));
        return tensors.slices(full, group);
    }

    /// Sums the gradients of rows that other tensor-parallel ranks hold too.
    void sumCopies(ParameterGroup group, int m) {
        for (Parameter parameter : group.parameters()) {
            for (Parameter.Copy copy : parameter.copies()) {
                String axis = copy.axis();
                if (axis != null) {
                    long width = parameter.elements() / parameter.shape().size(0);
                    int rows = builder.slice(
                            step.gradients(group, m),
                            "copied gradient:" + parameter.name(),
                            group.offset(parameter) + copy.rows().start() * width,
                            DType.F32,
                            new Shape(copy.rows().size() * width));
                    builder.emit(
                            Instruction.Kind.REDUCE,
                            Lane.TENSOR,
                            -1,
                            group.index(),
                            m,
                            List.of(new Call(new Op.AllReduce(axis), List.of(), List.of(rows))));
                }
            }
        }
    }

    /// Emits zeros for gradients to which no microbatch of this rank has added anything.
    void zero(ParameterGroup group) {
        int gradients = builder.find("gradients:" + group.name());
        builder.emit(
                Instruction.Kind.BACKWARD_WEIGHT,
                Lane.COMPUTE,
                -1,
                group.index(),
                -1,
                List.of(new Call(new Op.Zero(), List.of(), List.of(gradients))));
    }

    /// Sums a group's gradients over the data-parallel ranks.
    void reduce(ParameterGroup group, int m) {
        if (part.shards() == 1 && !tensors.shardedWeights()) {
            return;
        }
        int full = step.gradients(group, m);
        // With one rank nothing travels.
        DType travelling =
                part.shards() == 1 ? DType.F32 : options.parallelism().communication();
        List<Call> calls = new ArrayList<>();
        int sent = full;
        if (travelling != DType.F32) {
            sent = builder.allocate(
                    "travelling gradients:" + group.name(),
                    TensorSpec.Role.GRADIENT_BUFFERS,
                    false,
                    travelling,
                    new Shape(group.elements()));
            calls.add(new Call(new Op.Cast(), List.of(full), List.of(sent)));
        }
        if (!tensors.sharded() || part.tied(group)) {
            calls.add(new Call(new Op.AllReduce("data"), List.of(), List.of(sent)));
            if (sent != full) {
                calls.add(new Call(new Op.Cast(), List.of(sent), List.of(full)));
            }
        } else {
            // A shard is summed in its place, or where it is kept if it is the first to come there.
            boolean kept = tensors.shardedGradients(group);
            boolean first = kept && !begun.contains(group);
            int sum = builder.find("gradients:" + group.name());
            int target = first ? sum : shard(full, "gradient shard:" + group.name(), DType.F32, group);
            int summed = sent == full ? target : shard(sent, "travelling shard:" + group.name(), travelling, group);
            calls.add(new Call(new Op.ReduceScatter("data"), List.of(sent), List.of(summed)));
            if (summed != target) {
                calls.add(new Call(new Op.Cast(), List.of(summed), List.of(target)));
            }
            if (kept && !first) {
                calls.add(new Call(new Op.Add(), List.of(target), List.of(sum)));
            }
            if (first) {
                begun.add(group);
            }
        }
        communicate(Instruction.Kind.REDUCE, group, m, calls);
    }

    /// The sum of squares of what this rank counts of the gradients. The last groups come first, as their gradients do,
    /// so that only those of the first blocks wait for the end of the reductions.
    void squares() {
        int sum = builder.find("sumSquares");
        for (ParameterGroup group : part.groups().reversed()) {
            List<Call> squares = new ArrayList<>();
            int gradients = builder.find("gradients:" + group.name());
            long base = tensors.shardedGradients(group) ? tensors.shardStart(group) : 0;
            for (Range range : counted(group)) {
                int own = builder.slice(
                        gradients, "norm:" + group.name(), range.start() - base, DType.F32, new Shape(range.size()));
                squares.add(new Call(new Op.SumSquares(true), List.of(own), List.of(sum)));
            }
            builder.emit(Instruction.Kind.NORM, Lane.COMPUTE, -1, group.index(), -1, squares);
        }
        zeroUnlessComputed(sum);
    }

    /// The elements of a group that this rank counts: of its shard, those that no other rank counts.
    private List<Range> counted(ParameterGroup group) {
        List<Range> ranges = new ArrayList<>();
        long start = tensors.shardStart(group);
        long end = start + tensors.shard(group).elements();
        for (Range copy : copies(group)) {
            if (copy.end() > start && copy.start() < end) {
                if (copy.start() > start) {
                    ranges.add(new Range(start, copy.start()));
                }
                start = Math.min(copy.end(), end);
            }
        }
        if (start < end) {
            ranges.add(new Range(start, end));
        }
        return ranges;
    }

    /// What another rank counts, in order.
    private List<Range> copies(ParameterGroup group) {
        List<Range> copies = new ArrayList<>();
        for (Parameter parameter : group.parameters()) {
            long at = group.offset(parameter);
            if (part.place().stage() > 0 && part.tied().contains(parameter.name())) {
                copies.add(new Range(at, at + parameter.elements()));
                continue;
            }
            long width = parameter.elements() / parameter.shape().size(0);
            for (Parameter.Copy copy : parameter.copies()) {
                if (!copy.counted()) {
                    copies.add(new Range(
                            at + copy.rows().start() * width, at + copy.rows().end() * width));
                }
            }
        }
        return copies;
    }

    /// Where a rank computes no loss, or none that counts, its part of the sum is 0.
    void loss() {
        zeroUnlessComputed(builder.find("loss"));
    }

    private void zeroUnlessComputed(int tensor) {
        boolean computed = builder.drafts().stream()
                .flatMap(draft -> draft.calls().stream())
                .anyMatch(call -> call.outputs().contains(tensor));
        if (!computed) {
            builder.emit(
                    Instruction.Kind.NORM, Lane.COMPUTE, List.of(new Call(new Op.Zero(), List.of(), List.of(tensor))));
        }
    }

    /// Sums loss and squares over all ranks.
    void sumStats() {
        sum("stats");
    }

    /// Sums the loss over all ranks.
    void sumLoss() {
        sum("loss");
    }

    private void sum(String tensor) {
        builder.emit(
                Instruction.Kind.NORM,
                Lane.COMMUNICATION,
                List.of(new Call(new Op.AllReduce("world"), List.of(), List.of(builder.find(tensor)))));
    }

    /// The clip factor, and what the host hears of the step.
    void report() {
        int clip = builder.find("clip");
        builder.emit(
                Instruction.Kind.NORM,
                Lane.COMPUTE,
                List.of(new Call(
                        new Op.ClipFactor(options.maxGradNorm()),
                        List.of(builder.find("sumSquares"), builder.find("loss"), builder.find("unscale")),
                        List.of(clip))));
        builder.emit(
                Instruction.Kind.REPORT,
                Lane.DOWNLOAD,
                List.of(
                        RankTensors.copy(builder.find("stats"), builder.find("host stats")),
                        RankTensors.copy(clip, builder.find("host clip"))));
    }

    /// What the host hears of an evaluation.
    void reportLoss() {
        builder.emit(
                Instruction.Kind.REPORT,
                Lane.DOWNLOAD,
                List.of(RankTensors.copy(builder.find("loss"), builder.find("host loss"))));
    }

    /// AdamW on what this rank updates of a group and, with ZeRO-1 and 2, the gathering of what all have
    /// updated.
    void update(ParameterGroup group) {
        boolean sharded = tensors.sharded();
        long start = sharded ? tensors.shardStart(group) : 0;
        long size = sharded ? tensors.shard(group).elements() : group.elements();
        int weights = builder.find("weights:" + group.name());
        int own = sharded && !tensors.shardedWeights()
                ? shard(weights, "weight shard:" + group.name(), options.dtype(), group)
                : weights;
        List<Call> calls = new ArrayList<>();
        for (Run run : runs(group)) {
            long from = Math.max(run.start(), start);
            long to = Math.min(run.end(), start + size);
            if (from < to) {
                calls.add(adamw(group, own, start, from, to, run.number() + from - run.start()));
            }
        }
        builder.emit(Instruction.Kind.UPDATE, Lane.COMPUTE, -1, group.index(), -1, calls);
        if (sharded && !tensors.shardedWeights()) {
            communicate(
                    Instruction.Kind.GATHER,
                    group,
                    -1,
                    List.of(new Call(new Op.AllGather("data"), List.of(own), List.of(weights))));
        }
    }

    /// @param held the weights that this rank updates, from element `start` of the group on
    private Call adamw(ParameterGroup group, int held, long start, long from, long to, long number) {
        long gradientBase = tensors.shardedGradients(group) ? start : 0;
        List<Integer> states = new ArrayList<>();
        for (String state : List.of("master", "moment1", "moment2")) {
            states.add(updated(builder.find(state + ":" + group.name()), from - start, to - from));
        }
        states.add(updated(held, from - start, to - from));
        return new Call(
                new Op.AdamW(
                        Math.clamp(group.decayed() - from, 0, to - from),
                        options.beta1(),
                        options.beta2(),
                        options.epsilon(),
                        options.weightDecay(),
                        number),
                List.of(
                        updated(builder.find("gradients:" + group.name()), from - gradientBase, to - from),
                        builder.find("clip"),
                        builder.find("optimizer")),
                states);
    }

    private int updated(int tensor, long from, long elements) {
        String name = "updated " + builder.tensors().get(tensor).name();
        return builder.part(tensor, name, from, new Shape(elements));
    }

    /// Elements of a group whose numbers follow one another.
    private record Run(long start, long end, long number) {}

    /// A group's elements by their numbers, which stochastic rounding of moments depends on. They are those
    /// that the whole model's weights have one behind the other, so that they depend on no shard, and ranks
    /// that hold the same weights round them alike; but where a rank holds some columns, which no other
    /// does, they only differ.
    private List<Run> runs(ParameterGroup group) {
        List<Run> runs = new ArrayList<>();
        if (options.moments() == DType.F32) {
            return List.of(new Run(0, group.elements(), 0));
        }
        for (Parameter parameter : group.parameters()) {
            long at = group.offset(parameter);
            long width = parameter.elements() / parameter.shape().size(0);
            Long number = numbers.get(parameter.name());
            if (number == null) {
                throw new IllegalStateException("the whole model has no " + parameter.name());
            }
            for (Range rows : parameter.portion().rows()) {
                long end = at + rows.size() * width;
                add(
                        runs,
                        new Run(
                                at,
                                end,
                                number
                                        + rows.start() * width
                                        + parameter.portion().columns().start()));
                at = end;
            }
        }
        Run last = runs.removeLast();
        runs.add(new Run(last.start(), group.elements(), last.number()));
        return runs;
    }

    /// Adds a run; one that goes on where the last one ends, but for padding, becomes part of it.
    private static void add(List<Run> runs, Run next) {
        if (!runs.isEmpty()) {
            Run last = runs.removeLast();
            if (next.number() - last.number() == next.start() - last.start()) {
                runs.add(new Run(last.start(), next.end(), last.number()));
                return;
            }
            runs.add(new Run(last.start(), next.start(), last.number()));
        }
        runs.add(next);
    }

    private void communicate(Instruction.Kind kind, ParameterGroup group, int m, List<Call> calls) {
        builder.emit(kind, Lane.COMMUNICATION, -1, group.index(), m, calls);
    }

    /// This rank's shard of a tensor over a whole group.
    private int shard(int full, String name, DType dtype, ParameterGroup group) {
        return builder.slice(full, name, tensors.shardStart(group), dtype, tensors.shard(group));
    }
}
