package troika.plan;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
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
    /// By stage and replica, how often its blocks have used weights.
    private final Map<List<Integer>, Integer> uses = new HashMap<>();
    /// Backwards that a group's gradients still wait for: by stage, replica, group and microbatch.
    private final Map<List<Integer>, Integer> pending = new HashMap<>();
    /// Replicas whose gradients are complete: by stage, group and microbatch.
    private final Map<List<Integer>, Integer> complete = new HashMap<>();

    StepOrder(Compiler compiler, List<RankStep> ranks, List<RankUpdate> updates) {
        this.compiler = compiler;
        this.layout = compiler.layout();
        this.ranks = ranks;
        this.updates = updates;
        this.transfers = new Transfers(compiler, ranks);
    }

    /// Emits an optimizer step.
    void train() {
        PlanOptions options = compiler.options();
        Parallelism parallelism = options.parallelism();
        List<Integer> replicas =
                layout.stages().stream().map(Layout.Stage::dataParallel).toList();
        List<List<Action>> actions =
                parallelism.schedule().actions(replicas, parallelism.chunks(), compiler.microbatches());
        emit(actions, PipelineSchedule.globalOrder(actions, replicas));
        transfers.tiedGradients();
        updates.forEach(RankUpdate::squares);
        sumStats();
        updates.forEach(RankUpdate::report);
        for (int rank = 0; rank < ranks.size(); rank++) {
            for (ParameterGroup group : ranks.get(rank).part().groups()) {
                updates.get(rank).update(group);
            }
        }
    }

    private void sumStats() {
        updates.forEach(RankUpdate::loss);
        if (ranks.size() > 1) {
            updates.forEach(RankUpdate::sumStats);
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
        List<Event> events = new ArrayList<>();
        for (int m = 0; m < compiler.microbatches(); m++) {
            for (int chunk = 0; chunk < chunks(); chunk++) {
                for (int stage = 0; stage < actions.size(); stage++) {
                    int dataParallel = layout.stages().get(stage).dataParallel();
                    Action action = new Action(Phase.FORWARD, chunk, m / dataParallel);
                    events.add(new Event(stage, m % dataParallel, action, events.size(), events.size() + 1));
                }
            }
        }
        emit(actions, events);
        sumStats();
        updates.forEach(RankUpdate::reportLoss);
    }

    private int chunks() {
        return compiler.options().parallelism().chunks();
    }

    private void emit(List<List<Action>> actions, List<Event> events) {
        for (RankStep rank : ranks) {
            rank.tensors().emitInputs();
        }
        for (int stage = 0; stage < actions.size(); stage++) {
            gathers.add(new Gathers(compiler.options(), first(stage), actions.get(stage)));
        }
        for (Event event : events) {
            compute(event);
        }
    }

    private RankStep first(int stage) {
        return ranks.get(layout.stages().get(stage).ranks().getFirst());
    }

    private List<RankStep> replica(int stage, int replica) {
        return layout.stages().get(stage).replica(replica).stream()
                .map(ranks::get)
                .toList();
    }

    private void compute(Event event) {
        Action action = event.action();
        int stage = event.stage();
        int m = action.microbatch();
        List<RankStep> members = replica(stage, event.replica());
        List<Integer> blocks = members.getFirst().part().chunks().get(action.chunk());
        boolean empty = members.getFirst().empty(m);
        switch (action.phase()) {
            case FORWARD -> {
                for (int block : blocks) {
                    use(event, block);
                    if (!empty) {
                        members.forEach(rank -> rank.forward(block, m));
                    }
                }
                if (!empty) {
                    transfers.forward(event, blocks.getLast());
                }
            }
            case BACKWARD, BACKWARD_INPUT -> {
                for (int block : blocks.reversed()) {
                    if (Gathers.backwardReads(block)) {
                        use(event, block);
                    }
                    if (!empty) {
                        members.forEach(rank -> rank.backwardInput(block, m));
                    }
                    if (action.phase() == Phase.BACKWARD) {
                        backwardWeight(event, members, block);
                    }
                }
                if (!empty) {
                    transfers.backward(event, blocks.getFirst());
                }
            }
            case BACKWARD_WEIGHT -> blocks.reversed().forEach(block -> backwardWeight(event, members, block));
        }
    }

    /// Before a replica's block uses its weights.
    private void use(Event event, int block) {
        if (compiler.options().parallelism().zeroStage() < 3) {
            return;
        }
        int stage = event.stage();
        int use = uses.merge(List.of(stage, event.replica()), 1, Integer::sum) - 1;
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

    private void backwardWeight(Event event, List<RankStep> members, int block) {
        int m = event.action().microbatch();
        RankStep first = members.getFirst();
        boolean empty = first.empty(m);
        if (!empty) {
            members.forEach(rank -> rank.backwardWeight(block, m));
        }
        for (ParameterGroup group : first.part().groupsOf(block)) {
            boolean each = first.tensors().shardedGradients(group);
            int users = first.part().users(group);
            int all = each ? users : users * first.part().microbatches().size();
            int left = pending.merge(
                    List.of(event.stage(), event.replica(), group.index(), each ? m : -1),
                    -1,
                    (before, less) -> before + less);
            // Counted down from nothing, so that what is awaited need not be entered first.
            if (left == -all) {
                completed(event, members, group, each ? m : -1, each);
            }
        }
    }

    private void completed(Event event, List<RankStep> members, ParameterGroup group, int m, boolean each) {
        RankStep first = members.getFirst();
        int microbatches = first.part().microbatches().size();
        boolean nothing =
                each ? first.empty(m) : IntStream.range(0, microbatches).allMatch(first::empty);
        for (RankStep member : members) {
            RankUpdate update = updates.get(member.part().rank());
            ParameterGroup own = member.part().groups().get(group.index());
            if (nothing && !each) {
                update.zero(own);
            } else if (!nothing) {
                update.sumCopies(own, m);
            }
        }
        Layout.Stage stage = layout.stages().get(event.stage());
        int done = complete.merge(List.of(event.stage(), group.index(), m), 1, Integer::sum);
        if (done == stage.dataParallel()) {
            for (int rank : stage.ranks()) {
                updates.get(rank).reduce(ranks.get(rank).part().groups().get(group.index()), m);
            }
        }
    }
}
