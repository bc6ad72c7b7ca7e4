package troika.plan;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import troika.graph.Block;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.graph.TensorParallel;

/// What a rank holds and does of a job.
///
/// @param model with the shapes that this rank's tensor-parallel part has
/// @param chunks by chunk, the indices of the blocks that the rank holds, in order
/// @param groups of its blocks' weights
/// @param microbatches that pass it, in order
/// @param groupsOf by block, the groups that hold a weight of it
/// @param tied names of weights that a rank of another stage holds and updates too
record RankPart(
        int rank,
        Layout.Place place,
        TensorParallel tensor,
        Model model,
        List<List<Integer>> chunks,
        List<ParameterGroup> groups,
        Map<Integer, List<ParameterGroup>> groupsOf,
        List<Microbatch> microbatches,
        List<String> tied,
        Map<String, List<Integer>> axes) {
    RankPart {
        chunks = List.copyOf(chunks);
        groups = List.copyOf(groups);
        groupsOf = Map.copyOf(groupsOf);
        microbatches = List.copyOf(microbatches);
        tied = List.copyOf(tied);
        axes = new LinkedHashMap<>(axes);
    }

    /// The ranks over which gradients are summed and states sharded: as many as the stage has replicas.
    int shards() {
        return group("data").size();
    }

    /// The ranks of an axis, this one among them.
    List<Integer> group(String axis) {
        List<Integer> ranks = axes.get(axis);
        if (ranks == null) {
            throw new IllegalArgumentException("rank " + rank + " has no axis " + axis);
        }
        return ranks;
    }

    Block block(int index) {
        return model.blocks().get(index);
    }

    /// The groups that hold a weight of a block.
    List<ParameterGroup> groupsOf(int block) {
        return groupsOf.getOrDefault(block, List.of());
    }

    /// How many of the rank's blocks use a group.
    int users(ParameterGroup group) {
        return (int)
                groupsOf.values().stream().filter(used -> used.contains(group)).count();
    }

    /// Whether a rank of another stage holds some of the group's weights too.
    boolean tied(ParameterGroup group) {
        return group.parameters().stream().anyMatch(parameter -> tied.contains(parameter.name()));
    }

    /// The group of a weight.
    ParameterGroup groupOf(Parameter parameter) {
        for (ParameterGroup group : groups) {
            if (group.parameters().contains(parameter)) {
                return group;
            }
        }
        throw new IllegalStateException("no group holds " + parameter.name());
    }

    /// By block of those that a rank holds, the groups that hold a weight of it.
    static Map<Integer, List<ParameterGroup>> groupsByBlock(
            Model model, List<List<Integer>> chunks, List<ParameterGroup> groups) {
        Map<Integer, List<ParameterGroup>> groupsOf = new HashMap<>();
        for (List<Integer> chunk : chunks) {
            for (int index : chunk) {
                Block block = model.blocks().get(index);
                groupsOf.put(
                        index,
                        groups.stream()
                                .filter(group ->
                                        block.parameters().values().stream().anyMatch(group.parameters()::contains))
                                .toList());
            }
        }
        return groupsOf;
    }

    /// The blocks of the rank, for their groups.
    static List<Block> blocks(Model model, List<List<Integer>> chunks) {
        List<Block> blocks = new ArrayList<>();
        chunks.stream()
                .flatMap(List::stream)
                .sorted()
                .forEach(b -> blocks.add(model.blocks().get(b)));
        return blocks;
    }
}
