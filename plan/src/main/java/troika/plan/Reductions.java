package troika.plan;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

/// When gradients leave: as soon as those of a group are complete, of a microbatch where each leaves for itself
/// (ZeRO-2 and 3), else of the step. First a replica's tensor-parallel ranks sum what several of them hold; when all
/// of the stage's replicas are there, their sums are reduced.
final class Reductions {
    /// Instead of a microbatch, where all of the step's are meant.
    private static final int ALL = -1;

    /// A group's gradients on a replica.
    private record Share(int stage, int replica, int group, int microbatch) {}

    /// A group's gradients on all replicas of a stage.
    private record Whole(int stage, int group, int microbatch) {}

    private final Layout layout;
    private final List<RankStep> ranks;
    private final List<RankUpdate> updates;
    private final Map<Share, Integer> backwards = new HashMap<>();
    private final Map<Whole, Integer> replicas = new HashMap<>();

    Reductions(Layout layout, List<RankStep> ranks, List<RankUpdate> updates) {
        this.layout = layout;
        this.ranks = ranks;
        this.updates = updates;
    }

    /// Notes that a replica has computed the weight gradients of a block.
    ///
    /// @param m the replica's own count
    void computed(int stage, int replica, int block, int m) {
        RankStep first = ranks.get(layout.stages().get(stage).replica(replica).getFirst());
        RankPart part = first.part();
        for (ParameterGroup group : part.groupsOf(block)) {
            boolean each = first.tensors().shardedGradients(group);
            int awaited = part.users(group) * (each ? 1 : part.microbatches().size());
            Share share = new Share(stage, replica, group.index(), each ? m : ALL);
            if (backwards.merge(share, 1, Integer::sum) == awaited) {
                complete(share);
            }
        }
    }

    private void complete(Share share) {
        Layout.Stage stage = layout.stages().get(share.stage());
        int m = share.microbatch();
        for (int rank : stage.replica(share.replica())) {
            RankStep step = ranks.get(rank);
            ParameterGroup group = step.part().groups().get(share.group());
            if (m == ALL
                    && IntStream.range(0, step.part().microbatches().size()).allMatch(step::empty)) {
                updates.get(rank).zero(group);
            } else if (m == ALL || !step.empty(m)) {
                updates.get(rank).sumCopies(group, m);
            }
        }
        Whole whole = new Whole(share.stage(), share.group(), m);
        if (replicas.merge(whole, 1, Integer::sum) == stage.dataParallel()) {
            for (int rank : stage.ranks()) {
                updates.get(rank).reduce(ranks.get(rank).part().groups().get(share.group()), m);
            }
        }
    }
}
