package troika.plan;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/// Pass: derives which instructions must wait for which, from the bytes they touch.
///
/// Two instructions of different lanes that touch the same bytes, one of them writing, keep their
/// issue order; lanes are first in, first out, so the last such instruction of each other lane is
/// enough. The issue order is played twice, since a step must also wait for the one before it: with
/// no barrier between steps, an Update of one precedes the first use of its weights in the next and
/// nothing else. All dependencies point back in issue order, so no wait can close a circle.
final class Dependencies {
    private final List<List<Integer>> after = new ArrayList<>();
    private final List<List<Integer>> afterPrevious = new ArrayList<>();

    /// Bytes of one arena with the same history: who wrote them last, and who of each lane read them
    /// since. Numbers count on from the first playing to the second.
    private static final class Cell {
        private long end;
        private int writer = -1;
        private final int[] readers = new int[Lane.values().length];

        Cell(long end) {
            this.end = end;
            Arrays.fill(readers, -1);
        }
    }

    private final RankBuilder builder;
    private final Placement placement;
    private final TreeMap<Long, Cell> deviceCells = new TreeMap<>();
    private final TreeMap<Long, Cell> hostCells = new TreeMap<>();

    Dependencies(RankBuilder builder, Placement placement) {
        this.builder = builder;
        this.placement = placement;
        int count = builder.drafts().size();
        for (int i = 0; i < 2 * count; i++) {
            RankBuilder.Draft draft = builder.drafts().get(i % count);
            int[] latest = new int[Lane.values().length];
            Arrays.fill(latest, -1);
            for (Call call : draft.calls()) {
                cells(call.inputs()).forEach(cell -> need(cell.writer, latest));
                cells(call.outputs()).forEach(cell -> {
                    need(cell.writer, latest);
                    Arrays.stream(cell.readers).forEach(reader -> need(reader, latest));
                });
            }
            int instruction = i;
            for (Call call : draft.calls()) {
                cells(call.inputs()).forEach(cell -> cell.readers[draft.lane().ordinal()] = instruction);
                cells(call.outputs()).forEach(cell -> {
                    cell.writer = instruction;
                    Arrays.fill(cell.readers, -1);
                });
            }
            if (i >= count) {
                keep(count, draft.lane(), latest);
            }
        }
    }

    List<Integer> after(int instruction) {
        return after.get(instruction);
    }

    List<Integer> afterPrevious(int instruction) {
        return afterPrevious.get(instruction);
    }

    private void keep(int count, Lane own, int[] latest) {
        List<Integer> same = new ArrayList<>();
        List<Integer> previous = new ArrayList<>();
        for (Lane lane : Lane.values()) {
            int needed = latest[lane.ordinal()];
            if (lane == own || needed < 0) {
                continue;
            }
            if (needed >= count) {
                same.add(needed - count);
            } else {
                previous.add(needed);
            }
        }
        after.add(same);
        afterPrevious.add(previous);
    }

    private void need(int instruction, int[] latest) {
        if (instruction >= 0) {
            int lane = builder.drafts()
                    .get(instruction % builder.drafts().size())
                    .lane()
                    .ordinal();
            latest[lane] = Math.max(latest[lane], instruction);
        }
    }

    /// The cells that the tensors cover, split so that they cover nothing else.
    private List<Cell> cells(List<Integer> tensors) {
        List<Cell> covered = new ArrayList<>();
        for (int tensor : tensors) {
            if (tensor >= 0) {
                RankBuilder.Slice slice = builder.tensors().get(tensor);
                boolean host = builder.buffers().get(slice.buffer()).host();
                long start = placement.offset(slice.buffer()) + slice.offset();
                cover(host ? hostCells : deviceCells, start, start + slice.bytes(), covered);
            }
        }
        return covered;
    }

    private static void cover(TreeMap<Long, Cell> cells, long start, long end, List<Cell> covered) {
        if (start == end) {
            return;
        }
        split(cells, start);
        split(cells, end);
        long at = start;
        while (at < end) {
            Cell cell = cells.get(at);
            if (cell == null) {
                Long next = cells.higherKey(at);
                cell = new Cell(next == null ? end : Math.min(next, end));
                cells.put(at, cell);
            }
            covered.add(cell);
            at = cell.end;
        }
    }

    private static void split(TreeMap<Long, Cell> cells, long at) {
        Map.Entry<Long, Cell> before = cells.lowerEntry(at);
        if (before != null && before.getValue().end > at) {
            Cell tail = new Cell(before.getValue().end);
            tail.writer = before.getValue().writer;
            System.arraycopy(before.getValue().readers, 0, tail.readers, 0, tail.readers.length);
            before.getValue().end = at;
            cells.put(at, tail);
        }
    }
}
