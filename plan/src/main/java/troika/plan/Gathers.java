package troika.plan;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import troika.plan.PipelineSchedule.Action;
import troika.plan.PipelineSchedule.Phase;

/// ZeRO-3: when the weights of a stage's blocks are gathered, and how long they stay.
///
/// All replicas of a stage run the same list of actions, so their blocks use weights in the same order, and
/// the uses are numbered. A span is a run of uses of a group for which it stays: one use and the next, if
/// nothing else comes between; with a gather a step, all. It is gathered, by all of the stage's ranks
/// together, as soon as one replica comes within `prefetch` uses of it. The memory is free again behind the
/// last use, as [Placement] finds.
final class Gathers {
    /// @param group index of the group
    private record Span(int group, int first, int last) {}

    private final int prefetch;
    /// The block of each use.
    private final List<Integer> blocks = new ArrayList<>();
    private final List<Span> spans = new ArrayList<>();
    /// The spans of each use.
    private final Map<Integer, List<Integer>> spansOf = new HashMap<>();
    /// By span, what each rank of the stage gathered.
    private final List<List<Map<String, Integer>>> gathered = new ArrayList<>();

    /// @param rank one of the stage's
    /// @param actions of the stage
    Gathers(PlanOptions options, RankStep rank, List<Action> actions) {
        RankPart part = rank.part();
        prefetch = options.parallelism().prefetch();
        for (Action action : actions) {
            List<Integer> chunk = part.chunks().get(action.chunk());
            if (action.phase() == Phase.FORWARD) {
                blocks.addAll(chunk);
            } else if (action.phase() != Phase.BACKWARD_WEIGHT) {
                chunk.reversed().stream().filter(Gathers::backwardReads).forEach(blocks::add);
            }
        }
        Map<Integer, Span> open = new HashMap<>();
        for (int use = 0; use < blocks.size(); use++) {
            for (ParameterGroup group : part.groupsOf(blocks.get(use))) {
                Span last = open.get(group.index());
                boolean stays = last != null && (options.parallelism().gatherOnce() || last.last() == use - 1);
                if (last != null && !stays) {
                    spans.add(last);
                }
                open.put(group.index(), new Span(group.index(), last != null && stays ? last.first() : use, use));
            }
        }
        spans.addAll(open.values());
        spans.sort(Comparator.comparingInt(Span::first).thenComparingInt(Span::group));
        for (int i = 0; i < spans.size(); i++) {
            Span span = spans.get(i);
            for (int use = span.first(); use <= span.last(); use++) {
                int block = blocks.get(use);
                if (part.groupsOf(block).stream().anyMatch(group -> group.index() == span.group())) {
                    spansOf.computeIfAbsent(use, _ -> new ArrayList<>()).add(i);
                }
            }
        }
    }

    /// Whether a block's backward reads weights; that of the embedding, the first, does not.
    static boolean backwardReads(int block) {
        return block > 0;
    }

    /// The block of a use.
    int block(int use) {
        return blocks.get(use);
    }

    /// Emits what has to be gathered when a replica comes to a use.
    ///
    /// @param stage all ranks of the stage
    void before(int use, List<RankUpdate> stage) {
        while (gathered.size() < spans.size() && spans.get(gathered.size()).first() <= use + prefetch) {
            Span span = spans.get(gathered.size());
            gathered.add(stage.stream()
                    .map(rank -> rank.gather(rank.part().groups().get(span.group())))
                    .toList());
        }
    }

    /// What is gathered for a use.
    ///
    /// @param rank its index in the stage
    List<Map<String, Integer>> weights(int use, int rank) {
        return spansOf.getOrDefault(use, List.of()).stream()
                .map(span -> gathered.get(span).get(rank))
                .toList();
    }
}
