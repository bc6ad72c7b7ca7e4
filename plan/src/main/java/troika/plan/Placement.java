package troika.plan;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/// Pass: gives every buffer its place.
///
/// Persistent buffers lie one behind the other in the order of their making, so that programs made from
/// the same start share them. The others live from the first to the last call that touches them, in issue
/// order, and take the smallest gap that fits (best fit, swept over time). Lanes may run out of issue
/// order, but [Dependencies] are derived from the places chosen here, so a reuse is at worst a wait, never
/// a race. So that computing seldom waits for communication, what another lane uses last lives until the next
/// block has run; of two microbatches in turns, that of both, but for what is summed within a block: the other
/// microbatch's segment hides that.
final class Placement {
    /// Bytes to which buffers are aligned; what CUDA's allocator and libraries expect.
    private static final long ALIGNMENT = 256;

    private final RankBuilder builder;
    private final long[] offsets;
    private final Map<TensorSpec.Role, Long> bytes = new EnumMap<>(TensorSpec.Role.class);
    private long persistentEnd;
    private long deviceBytes;
    private long hostBytes;

    Placement(RankBuilder builder) {
        this.builder = builder;
        this.offsets = new long[builder.buffers().size()];
        placePersistent();
        placeTransient();
    }

    /// The offset of a buffer from the start of its arena.
    long offset(int buffer) {
        return offsets[buffer];
    }

    long deviceBytes() {
        return deviceBytes;
    }

    long hostBytes() {
        return hostBytes;
    }

    /// What the device arena of `total` bytes is made of.
    MemoryPlan memoryPlan(long total) {
        Map<TensorSpec.Role, Long> parts = new EnumMap<>(bytes);
        long named = parts.values().stream().mapToLong(Long::longValue).sum();
        parts.put(TensorSpec.Role.ACTIVATIONS, total - persistentEnd);
        return new MemoryPlan(builder.rank(), parts, persistentEnd - named, total);
    }

    private void placePersistent() {
        for (int i = 0; i < offsets.length; i++) {
            RankBuilder.Buffer buffer = builder.buffers().get(i);
            if (buffer.host()) {
                offsets[i] = hostBytes;
                hostBytes = align(hostBytes + buffer.bytes());
            } else if (buffer.role().persistent()) {
                offsets[i] = persistentEnd;
                persistentEnd = align(persistentEnd + buffer.bytes());
                bytes.merge(buffer.role(), buffer.bytes(), Long::sum);
            }
        }
        deviceBytes = persistentEnd;
    }

    private void placeTransient() {
        int count = offsets.length;
        int[] first = new int[count];
        int[] last = new int[count];
        Arrays.fill(first, Integer.MAX_VALUE);
        Arrays.fill(last, -1);
        int position = 0;
        int[] usedBy = new int[count];
        List<RankBuilder.Draft> drafts = builder.drafts();
        int[] ends = new int[drafts.size()];
        for (int d = 0; d < ends.length; d++) {
            RankBuilder.Draft draft = drafts.get(d);
            for (Call call : draft.calls()) {
                for (List<Integer> side : List.of(call.inputs(), call.outputs())) {
                    for (int tensor : side) {
                        if (tensor >= 0) {
                            int buffer = builder.tensors().get(tensor).buffer();
                            first[buffer] = Math.min(first[buffer], position);
                            last[buffer] = position;
                            usedBy[buffer] = d;
                        }
                    }
                }
                position++;
            }
            ends[d] = position - 1;
        }
        for (int i = 0; i < count; i++) {
            if (last[i] >= 0 && drafts.get(usedBy[i]).lane() != Lane.COMPUTE) {
                boolean pairs = builder.turns() && drafts.get(usedBy[i]).lane() != Lane.TENSOR;
                last[i] = Math.max(last[i], ends[nextBlockEnd(drafts, usedBy[i], pairs ? 2 : 1)]);
            }
        }
        List<Integer> order = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            RankBuilder.Buffer buffer = builder.buffers().get(i);
            if (!buffer.host() && !buffer.role().persistent() && last[i] >= 0) {
                order.add(i);
            }
        }
        // Of buffers that start together the larger comes first: it finds its gap more easily.
        order.sort(Comparator.<Integer>comparingInt(i -> first[i])
                .thenComparingLong(i -> -builder.buffers().get(i).bytes())
                .thenComparingInt(i -> i));
        FreeList free = new FreeList(persistentEnd);
        TreeMap<Integer, List<Integer>> endings = new TreeMap<>();
        for (int i : order) {
            while (!endings.isEmpty() && endings.firstKey() < first[i]) {
                for (int ended : endings.pollFirstEntry().getValue()) {
                    free.release(
                            offsets[ended], align(builder.buffers().get(ended).bytes()));
                }
            }
            offsets[i] = free.take(align(builder.buffers().get(i).bytes()));
            endings.computeIfAbsent(last[i], _ -> new ArrayList<>()).add(i);
        }
        deviceBytes = Math.max(deviceBytes, free.peak());
    }

    /// The last instruction of the next block that is computed behind instruction `d`, or of all. The embedding, the
    /// first block, is none for gradients: it takes no time in which they could travel.
    ///
    /// @param together microbatches whose block counts as one
    private static int nextBlockEnd(List<RankBuilder.Draft> drafts, int d, int together) {
        int end = -1;
        int firstBlock = drafts.get(d).kind() == Instruction.Kind.REDUCE ? 1 : 0;
        for (int i = d + 1; i < drafts.size(); i++) {
            RankBuilder.Draft draft = drafts.get(i);
            if (draft.lane() == Lane.COMPUTE && draft.block() >= firstBlock) {
                if (end >= 0
                        && (draft.block() != drafts.get(end).block()
                                || draft.microbatch() / together
                                        != drafts.get(end).microbatch() / together)) {
                    return end;
                }
                end = i;
            }
        }
        return drafts.size() - 1;
    }

    private static long align(long value) {
        return ParameterGroup.roundUp(value, ALIGNMENT);
    }

    /// Gaps of the region behind the persistent buffers, up to `end`, behind which all is free.
    private static final class FreeList {
        private final TreeMap<Long, Long> gaps = new TreeMap<>();
        private long end;
        private long peak;

        FreeList(long start) {
            end = start;
            peak = start;
        }

        long peak() {
            return peak;
        }

        long take(long size) {
            Map.Entry<Long, Long> best = null;
            for (Map.Entry<Long, Long> gap : gaps.entrySet()) {
                if (gap.getValue() >= size && (best == null || gap.getValue() < best.getValue())) {
                    best = gap;
                }
            }
            if (best == null) {
                Map.Entry<Long, Long> open = gaps.lastEntry();
                long offset = open != null && open.getKey() + open.getValue() == end ? open.getKey() : end;
                gaps.remove(offset);
                end = offset + size;
                peak = Math.max(peak, end);
                return offset;
            }
            long offset = best.getKey();
            long rest = best.getValue() - size;
            gaps.remove(offset);
            if (rest > 0) {
                gaps.put(offset + size, rest);
            }
            return offset;
        }

        void release(long offset, long size) {
            Map.Entry<Long, Long> before = gaps.floorEntry(offset);
            if (before != null && before.getKey() + before.getValue() == offset) {
                gaps.remove(before.getKey());
                offset = before.getKey();
                size += before.getValue();
            }
            Long behind = gaps.remove(offset + size);
            gaps.put(offset, size + (behind == null ? 0 : behind));
        }
    }
}
