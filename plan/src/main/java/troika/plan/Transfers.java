package troika.plan;

import java.util.ArrayList;
import java.util.List;
import troika.graph.Op;
import troika.graph.Parameter;
import troika.graph.Range;
import troika.graph.TensorParallel;
import troika.plan.PipelineSchedule.Event;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Emits what crosses between pipeline stages: activations, their gradients, and gradients of weights that
/// two stages hold.
final class Transfers {
    private final Compiler compiler;
    private final Layout layout;
    private final List<RankStep> ranks;

    Transfers(Compiler compiler, List<RankStep> ranks) {
        this.compiler = compiler;
        this.layout = compiler.layout();
        this.ranks = ranks;
    }

    /// After a forward: its output goes to the stage of the next block.
    ///
    /// @param last the block that has run
    void forward(Event event, int last) {
        if (last + 1 < compiler.blockCount()) {
            cross(event, last + 1, event.action().chunk() * layout.stages().size() + event.stage() + 1, true);
        }
    }

    /// After a backward: the gradient of its input goes to the stage of the block before.
    ///
    /// @param first the block that has run last
    void backward(Event event, int first) {
        if (first > 0) {
            cross(event, first - 1, event.action().chunk() * layout.stages().size() + event.stage() - 1, false);
        }
    }

    /// @param block whose input, or output's gradient, crosses
    /// @param virtual stage that it goes to
    private void cross(Event event, int block, int virtual, boolean forward) {
        int stages = layout.stages().size();
        int to = virtual % stages;
        if (to == event.stage()) {
            return;
        }
        Layout.Stage source = layout.stages().get(event.stage());
        Layout.Stage target = layout.stages().get(to);
        int m = event.action().microbatch() * source.dataParallel() + event.replica();
        int own = event.action().microbatch();
        int theirs = m / target.dataParallel();
        List<Integer> senders = source.replica(event.replica());
        List<Integer> receivers = target.replica(m % target.dataParallel());
        long tokens = (long) ranks.get(senders.getFirst())
                        .part()
                        .microbatches()
                        .get(own)
                        .sequences()
                * compiler.options().sequence();
        for (int index = 0; index < receivers.size(); index++) {
            RankStep receiver = ranks.get(receivers.get(index));
            Range wanted = rows(receiver, tokens);
            RankStep any = ranks.get(senders.get(index % senders.size()));
            int sample = forward ? any.input(block, own) : any.outputGradient(block, own);
            RankBuilder.Slice shape = any.builder().tensors().get(sample);
            long width = shape.shape().size(-1);
            int arrives = receiver.builder()
                    .allocate(
                            (forward ? "received input of " : "received gradient of ")
                                    + receiver.part().block(block).name(),
                            TensorSpec.Role.ACTIVATIONS,
                            false,
                            shape.dtype(),
                            new Shape(wanted.size(), width));
            if (forward) {
                receiver.setInput(block, theirs, arrives);
            } else {
                receiver.setOutputGradient(block, theirs, arrives);
            }
            for (RankStep sender : sources(senders, index)) {
                Range held = rows(sender, tokens);
                long start = Math.max(held.start(), wanted.start());
                long end = Math.min(held.end(), wanted.end());
                if (start < end) {
                    int from = forward ? sender.input(block, own) : sender.outputGradient(block, own);
                    move(
                            sender,
                            piece(sender, from, (start - held.start()) * width, new Shape(end - start, width)),
                            own,
                            receiver,
                            piece(receiver, arrives, (start - wanted.start()) * width, new Shape(end - start, width)),
                            theirs);
                }
            }
        }
    }

    /// Those of whom a receiver gets something: one that holds all, or all that hold parts.
    private List<RankStep> sources(List<Integer> senders, int receiver) {
        List<RankStep> steps = senders.stream().map(ranks::get).toList();
        return steps.getFirst().part().tensor().sequence() ? steps : List.of(steps.get(receiver % steps.size()));
    }

    /// The rows of a microbatch that a rank holds between blocks.
    private static Range rows(RankStep rank, long tokens) {
        TensorParallel tensor = rank.part().tensor();
        if (!tensor.sequence()) {
            return new Range(0, tokens);
        }
        return new Range(
                tensor.tokens(tokens).start(tensor.index()),
                tensor.tokens(tokens).start(tensor.index() + 1));
    }

    /// The gradients of weights that two stages hold become the sum of both stages' gradients, on both.
    void tiedGradients() {
        List<Runnable> additions = new ArrayList<>();
        for (RankStep receiver : ranks) {
            for (String name : receiver.part().tied()) {
                for (RankStep sender : ranks) {
                    if (exchanges(sender, receiver, name)) {
                        exchange(sender, receiver, name, additions);
                    }
                }
            }
        }
        // All is sent before anything is added to.
        additions.forEach(Runnable::run);
    }

    private boolean exchanges(RankStep sender, RankStep receiver, String name) {
        int dataParallel = layout.stages().get(sender.part().place().stage()).dataParallel();
        return sender.part().tied().contains(name)
                && sender.part().place().stage() != receiver.part().place().stage()
                && sender.part().place().replica() == receiver.part().place().replica() % dataParallel;
    }

    private void exchange(RankStep sender, RankStep receiver, String name, List<Runnable> additions) {
        Parameter theirs = parameter(sender, name);
        Parameter own = parameter(receiver, name);
        Range held = theirs.portion().rows().getFirst();
        Range wanted = own.portion().rows().getFirst();
        long start = Math.max(held.start(), wanted.start());
        long end = Math.min(held.end(), wanted.end());
        if (start >= end) {
            return;
        }
        long width = own.shape().size(1);
        Shape shape = new Shape(end - start, width);
        int gradient = gradient(receiver, own, (start - wanted.start()) * width, shape);
        int arrives = receiver.builder()
                .allocate("received gradient of " + name, TensorSpec.Role.GRADIENT_BUFFERS, false, DType.F32, shape);
        move(sender, gradient(sender, theirs, (start - held.start()) * width, shape), -1, receiver, arrives, -1);
        additions.add(() -> receiver.builder()
                .emit(
                        Instruction.Kind.REDUCE,
                        Lane.COMPUTE,
                        List.of(new Call(new Op.Add(), List.of(arrives), List.of(gradient)))));
    }

    private static int gradient(RankStep rank, Parameter parameter, long from, Shape shape) {
        ParameterGroup group = rank.part().groupOf(parameter);
        return rank.builder()
                .slice(
                        rank.builder().find("gradients:" + group.name()),
                        "exchanged gradient:" + parameter.name(),
                        group.offset(parameter) + from,
                        DType.F32,
                        shape);
    }

    private static Parameter parameter(RankStep rank, String name) {
        return rank.part().groups().stream()
                .flatMap(group -> group.parameters().stream())
                .filter(parameter -> parameter.name().equals(name))
                .findFirst()
                .orElseThrow();
    }

    private static int piece(RankStep rank, int tensor, long from, Shape shape) {
        RankBuilder builder = rank.builder();
        return builder.part(tensor, builder.tensors().get(tensor).name(), from, shape);
    }

    private static void move(RankStep sender, int from, int sent, RankStep receiver, int to, int received) {
        sender.builder()
                .emit(
                        Instruction.Kind.SEND,
                        Lane.SEND,
                        -1,
                        -1,
                        sent,
                        List.of(new Call(new Op.Send(receiver.part().rank()), List.of(from), List.of())));
        receiver.builder()
                .emit(
                        Instruction.Kind.RECEIVE,
                        Lane.RECEIVE,
                        -1,
                        -1,
                        received,
                        List.of(new Call(new Op.Receive(sender.part().rank()), List.of(), List.of(to))));
    }
}
