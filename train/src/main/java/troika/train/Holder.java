package troika.train;

import java.lang.foreign.MemorySegment;
import java.util.function.LongFunction;
import troika.graph.Portion;
import troika.graph.Range;
import troika.plan.ParameterGroup;

/// A rank's portion of a weight: where the elements of the whole weight lie in the rank's flat group, and in
/// the shard of it that the rank may have instead.
///
/// @param stage of the rank
/// @param replica of the rank, and with it the index of its shard
/// @param index of the weight in the group
record Holder(int rank, int stage, int replica, ParameterGroup group, int index) {
    private interface Move {
        /// Moves elements to or from a rank's tensor, from its element `first` on.
        void move(int rank, String tensor, long first, MemorySegment elements);
    }

    /// Writes what of the whole weight's elements first … first + count the rank holds.
    ///
    /// @param elements these, in the tensor's dtype
    /// @param scratch memory of at least so many bytes, for rows of which only some columns are held
    void write(
            RankMemory memory,
            String tensor,
            long first,
            int count,
            MemorySegment elements,
            LongFunction<MemorySegment> scratch) {
        move(memory, tensor, first, count, elements, scratch, true);
    }

    /// Reads what of the whole weight's elements first … first + count the rank holds, and leaves the rest of
    /// `elements` alone.
    void read(
            RankMemory memory,
            String tensor,
            long first,
            int count,
            MemorySegment elements,
            LongFunction<MemorySegment> scratch) {
        move(memory, tensor, first, count, elements, scratch, false);
    }

    /// Whether the rank has all of its group's flat tensor, rather than a shard of it.
    boolean isWhole(RankMemory memory, String tensor) {
        return memory.elements(rank, tensor) == group.elements();
    }

    private void move(
            RankMemory memory,
            String tensor,
            long first,
            int count,
            MemorySegment elements,
            LongFunction<MemorySegment> scratch,
            boolean writes) {
        Move move = writes ? memory::write : memory::read;
        Portion portion = group.parameters().get(index).portion();
        long offset = group.offsets().get(index);
        long size = memory.dtype(rank, tensor).bytes();
        long held = memory.elements(rank, tensor);
        long shard = isWhole(memory, tensor) ? 0 : replica * held;
        long columns = portion.whole().elements() / Math.max(1, portion.whole().size(0));
        long width = portion.columns().size();
        // Local element `before` is the first of a range of rows.
        long before = offset;
        for (Range rows : portion.rows()) {
            long from = Math.max(before + below(first, rows, portion.columns(), columns), shard);
            long to = Math.min(before + below(first + count, rows, portion.columns(), columns), shard + held);
            if (from < to && width == columns) {
                long at = rows.start() * columns + (from - before) - first;
                move.move(rank, tensor, from - shard, elements.asSlice(at * size, (to - from) * size));
            } else if (from < to) {
                MemorySegment packed = scratch.apply((to - from) * size);
                if (writes) {
                    copyRows(portion, rows, from - before, to - before, first, elements, packed, size, true);
                }
                move.move(rank, tensor, from - shard, packed);
                if (!writes) {
                    copyRows(portion, rows, from - before, to - before, first, elements, packed, size, false);
                }
            }
            before += rows.size() * width;
        }
    }

    /// How many of the elements of some rows and columns come before element `end` of the whole weight.
    private static long below(long end, Range rows, Range held, long columns) {
        long row = end / columns;
        if (row < rows.start()) {
            return 0;
        }
        if (row >= rows.end()) {
            return rows.size() * held.size();
        }
        return (row - rows.start()) * held.size() + Math.clamp(end % columns - held.start(), 0, held.size());
    }

    /// Copies between a piece of the whole weight, which begins at its element `first`, and its part from … to
    /// of some rows, packed.
    private static void copyRows(
            Portion portion,
            Range rows,
            long from,
            long to,
            long first,
            MemorySegment whole,
            MemorySegment packed,
            long size,
            boolean pack) {
        long columns = portion.whole().size(1);
        long width = portion.columns().size();
        for (long at = from; at < to; ) {
            long column = at % width;
            long count = Math.min(width - column, to - at);
            long there =
                    ((rows.start() + at / width) * columns + portion.columns().start() + column - first) * size;
            long here = (at - from) * size;
            if (pack) {
                MemorySegment.copy(whole, there, packed, here, count * size);
            } else {
                MemorySegment.copy(packed, here, whole, there, count * size);
            }
            at += count;
        }
    }
}
