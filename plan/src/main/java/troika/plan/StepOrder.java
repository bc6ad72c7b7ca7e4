package troika.plan;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Stream;
import troika.plan.PipelineSchedule.Action;
import troika.plan.PipelineSchedule.Event;
import troika.plan.PipelineSchedule.Phase;

/// Emits a step for all ranks together, in one global order.
///
/// The pipeline's schedule gives an order of all replicas' actions; to it come, each as soon as it can,
/// what crosses between stages, the gathering of weights and the reduction of gradients; then norm and
/// updates. What several ranks take part in is emitted for all of them at once. So each rank's order is a
/// part of one order, all waits point back in it, and neither ranks that wait for each other while they
/// execute nor ranks that meet while they issue can form a circle.
final class StepOrder {
    private final Compiler compiler;
    private final Layout layout;
    private final List<RankStep> ranks;
    private final List<RankUpdate> updates;
    private final Transfers transfers;
    private final List<Gathers> gathers = new ArrayList<>();
    private final Reductions reductions;
    /// How often a replica's blocks have used weights.
    private final Map<Replica, Integer> uses = new HashMap<>();

    private record Replica(int stage, int replica) {}

    StepOrder(Compiler compiler, List<RankStep> ranks, List<RankUpdate> updates) {
        this.compiler = compiler;
        this.layout = compiler.layout();
        this.ranks = ranks;
        this.updates = updates;
        this.transfers = new Transfers(compiler, ranks);
        this.reductions = new Reductions(layout, ranks, updates);
    }

    /// Emits an optimizer step.
    void train() {
        PlanOptions options = compiler.options();
        Parallelism parallelism = options.parallelism();
        emit(
                turns()
                        ? List.of(inPairs(compiler.microbatches() / replicas().getFirst()))
                        : parallelism.schedule().actions(replicas(), parallelism.chunks(), compiler.microbatches()));
        transfers.tiedGradients();
        updates.forEach(RankUpdate::squares);
        updates.forEach(RankUpdate::loss);
        if (ranks.size() > 1) {
            updates.forEach(RankUpdate::sumStats);
        }
        updates.forEach(RankUpdate::report);
        for (int rank = 0; rank < ranks.size(); rank++) {
            for (ParameterGroup group : ranks.get(rank).part().groups()) {
                updates.get(rank).update(group);
            }
        }
    }

    /// Emits the forwards of an evaluation, and its report.
    void evaluate() {
        List<List<Action>> actions = new ArrayList<>();
        for (Layout.Stage stage : layout.stages()) {
            List<Action> own = new ArrayList<>();
            for (int m = 0; m < compiler.microbatches() / stage.dataParallel(); m++) {
                for (int chunk = 0; chunk < chunks(); chunk++) {
                    own.add(new Action(Phase.FORWARD, chunk, m));
                }
            }
            actions.add(own);
        }
        emit(actions);
        updates.forEach(RankUpdate::loss);
        if (ranks.size() > 1) {
            updates.forEach(RankUpdate::sumLoss);
        }
        updates.forEach(RankUpdate::reportLoss);
    }

    /// Whether a replica computes two microbatches in turns, one while the collectives within the other's
    /// blocks are under way (as Domino does with the parts of a batch; Wang et al. 2024). Between pipeline
    /// stages microbatches wait for other things, and with ZeRO-3 weights would have to stay for both.
    /// Where the head is tied, the embedding's gradients would be summed in another order than without turns.
    private boolean turns() {
        Parallelism parallelism = compiler.options().parallelism();
        return layout.stages().size() == 1
                && layout.stages().getFirst().tensorParallel() > 1
                && parallelism.chunks() == 1
                && parallelism.overlap()
                && parallelism.zeroStage() < 3
                && !compiler.tiedHead();
    }

    /// Forwards of two microbatches, then their backwards; the last may be alone.
    private static List<Action> inPairs(int microbatches) {
        List<Action> actions = new ArrayList<>();
        for (int first = 0; first < microbatches; first += 2) {
            int end = Math.min(first + 2, microbatches);
            for (Phase phase : List.of(Phase.FORWARD, Phase.BACKWARD)) {
                for (int m = first; m < end; m++) {
                    actions.add(new Action(phase, 0, m));
                }
            }
        }
        return actions;
    }

    /// Replicas of each stage.
    private List<Integer> replicas() {
        return layout.stages().stream().map(Layout.Stage::dataParallel).toList();
    }

    private int chunks() {
        return compiler.options().parallelism().chunks();
    }

    /// Emits actions of the stages, and what belongs to them.
    private void emit(List<List<Action>> actions) {
        for (RankStep rank : ranks) {
            rank.tensors().emitInputs();
        }
        for (int stage = 0; stage < actions.size(); stage++) {
            gathers.add(new Gathers(compiler.options(), first(stage), actions.get(stage)));
        }
        List<Event> events = PipelineSchedule.globalOrder(actions, replicas());
        for (int i = 0; i < events.size(); ) {
            List<Event> together = together(events, i);
            i += together.size();
            List<Event> other = List.of();
            if (turns() && i < events.size()) {
                Action action = together.getFirst().action();
                Action next = events.get(i).action();
                if (action.microbatch() % 2 == 0 && next.equals(action.of(action.microbatch() + 1))) {
                    other = together(events, i);
                    i += other.size();
                }
            }
            compute(together, other);
        }
    }

    /// The events from one on that are the same action of a stage's replicas.
    private static List<Event> together(List<Event> events, int start) {
        Event first = events.get(start);
        int end = start + 1;
        while (end < events.size()
                && events.get(end).stage() == first.stage()
                && events.get(end).action().equals(first.action())) {
            end++;
        }
        return events.subList(start, end);
    }

    private RankStep first(int stage) {
        return ranks.get(layout.stages().get(stage).ranks().getFirst());
    }

    private List<RankStep> replica(int stage, int replica) {
        return layout.stages().get(stage).replica(replica).stream()
                .map(ranks::get)
                .toList();
    }

    /// What replicas of a stage do at the same time: block by block, so that what they do together comes as early
    /// as it can.
    ///
    /// @param other the same action of the next microbatch, which they do in turns with it; or empty
    private void compute(List<Event> events, List<Event> other) {
        Action action = events.getFirst().action();
        List<Integer> blocks = first(events.getFirst().stage()).part().chunks().get(action.chunk());
        switch (action.phase()) {
            case FORWARD -> {
                for (int block : blocks) {
                    inTurns(block, events, other, event -> {
                        use(event, block);
                        present(event).forEach(rank -> rank.forward(block, microbatch(event)));
                    });
                }
                present(events, other).forEach(event -> transfers.forward(event, blocks.getLast()));
            }
            case BACKWARD, BACKWARD_INPUT -> {
                for (int block : blocks.reversed()) {
                    inTurns(block, events, other, event -> {
                        if (Gathers.backwardReads(block)) {
                            use(event, block);
                        }
                        present(event).forEach(rank -> rank.backwardInput(block, microbatch(event)));
                    });
                    if (action.phase() == Phase.BACKWARD) {
                        backwardWeights(events, block, blocks);
                        backwardWeights(other, block, blocks);
                    }
                }
                present(events, other).forEach(event -> transfers.backward(event, blocks.getFirst()));
            }
            case BACKWARD_WEIGHT -> {
                for (int block : blocks.reversed()) {
                    events.forEach(event -> backwardWeight(event, block));
                }
            }
        }
    }

    private static int microbatch(Event event) {
        return event.action().microbatch();
    }

    private List<Event> present(List<Event> events, List<Event> other) {
        return Stream.concat(events.stream(), other.stream())
                .filter(event -> !present(event).isEmpty())
                .toList();
    }

    /// Emits events, and others in turns with them, segment by segment; of the head, behind them: it adds loss and
    /// gradients up chunk by chunk, in an order that turns must not change.
    private void inTurns(int block, List<Event> events, List<Event> other, Consumer<Event> emit) {
        int[] starts = emitted();
        events.forEach(emit);
        int[] middles = emitted();
        other.forEach(emit);
        if (!other.isEmpty() && block < compiler.blockCount() - 1) {
            for (int rank = 0; rank < ranks.size(); rank++) {
                ranks.get(rank).builder().interleave(starts[rank], middles[rank]);
            }
        }
    }

    private int[] emitted() {
        return ranks.stream().mapToInt(rank -> rank.builder().drafts().size()).toArray();
    }

    /// The first layer's weight gradients come behind the embedding's, which leave while those are computed.
    private void backwardWeights(List<Event> events, int block, List<Integer> blocks) {
        if (block == 1 && blocks.contains(0)) {
            return;
        }
        events.forEach(event -> backwardWeight(event, block));
        if (block == 0 && blocks.contains(1)) {
            events.forEach(event -> backwardWeight(event, 1));
        }
    }

    /// The ranks of an event's replica, none where its microbatch has no sequences.
    private List<RankStep> present(Event event) {
        List<RankStep> members = replica(event.stage(), event.replica());
        return members.getFirst().empty(microbatch(event)) ? List.of() : members;
    }

    /// Before a replica's block uses its weights.
    private void use(Event event, int block) {
        if (compiler.options().parallelism().zeroStage() < 3) {
            return;
        }
        int stage = event.stage();
        int use = uses.merge(new Replica(stage, event.replica()), 1, Integer::sum) - 1;
        Gathers own = gathers.get(stage);
        List<RankUpdate> members =
                layout.stages().get(stage).ranks().stream().map(updates::get).toList();
        own.before(use, members);
        List<Integer> replica = layout.stages().get(stage).replica(event.replica());
        for (int rank : replica) {
            own.weights(use, layout.stages().get(stage).ranks().indexOf(rank)).forEach(ranks.get(rank)::use);
        }
        if (own.block(use) != block) {
            throw new IllegalStateException("use " + use + " is of block " + own.block(use) + ", not " + block);
        }
    }

    private void backwardWeight(Event event, int block) {
        int m = microbatch(event);
        present(event).forEach(rank -> rank.backwardWeight(block, m));
        reductions.computed(event.stage(), event.replica(), block, m);
    }
}
