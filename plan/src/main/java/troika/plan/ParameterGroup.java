package troika.plan;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import troika.graph.Block;
import troika.graph.Parameter;

/// Weights that are gathered, reduced and updated together: those of a block, flat and one behind
/// the other, the decayed ones first, so that one launch updates them all. A weight that several
/// blocks use belongs to the first of them.
///
/// @param offsets elements from the start of the flat group to each parameter
/// @param elements the flat size, padding included: a multiple of `shards` × [#ALIGNMENT]
/// @param decayed the number of first elements to which weight decay applies
public record ParameterGroup(
        int index, String name, List<Parameter> parameters, List<Long> offsets, long elements, long decayed) {
    /// Elements to which each parameter and each shard is aligned: 64 bytes or more in any compute dtype.
    static final long ALIGNMENT = 64;

    public ParameterGroup {
        parameters = List.copyOf(parameters);
        offsets = List.copyOf(offsets);
    }

    /// The groups of a model, one for each block that has weights of its own.
    public static List<ParameterGroup> of(List<Block> blocks, int shards) {
        List<ParameterGroup> groups = new ArrayList<>();
        Map<String, Parameter> seen = new LinkedHashMap<>();
        for (Block block : blocks) {
            List<Parameter> own = new ArrayList<>();
            for (Parameter parameter : block.parameters().values()) {
                if (seen.putIfAbsent(parameter.name(), parameter) == null) {
                    own.add(parameter);
                }
            }
            if (!own.isEmpty()) {
                groups.add(of(groups.size(), block.name(), own, shards));
            }
        }
        return groups;
    }

    private static ParameterGroup of(int index, String name, List<Parameter> parameters, int shards) {
        List<Parameter> sorted = new ArrayList<>(parameters);
        sorted.sort(Comparator.comparing(parameter -> !parameter.decayed()));
        List<Long> offsets = new ArrayList<>();
        long end = 0;
        long decayed = 0;
        for (Parameter parameter : sorted) {
            offsets.add(end);
            end += roundUp(parameter.elements(), ALIGNMENT);
            if (parameter.decayed()) {
                decayed = end;
            }
        }
        return new ParameterGroup(index, name, sorted, offsets, roundUp(end, shards * ALIGNMENT), decayed);
    }

    /// Where a parameter begins.
    long offset(Parameter parameter) {
        return offsets.get(parameters.indexOf(parameter));
    }

    /// The elements to the last parameter's end, the same however many shards there are.
    long parameterElements() {
        return offsets.getLast() + roundUp(parameters.getLast().elements(), ALIGNMENT);
    }

    static long roundUp(long value, long multiple) {
        return Math.ceilDiv(value, multiple) * multiple;
    }
}
