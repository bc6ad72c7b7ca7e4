package troika.cpu;

import static troika.cpu.Vectors.LANES;
import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.MemorySegment;
import java.util.function.IntConsumer;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#embedding].
final class Embedding {
    // A task of the backward owns this many columns of the table: two cache lines.
    private static final int COLUMNS = 32;

    private Embedding() {}

    static Runnable forward(Workers workers, Tensor tokens, Tensor table, long first, Tensor out) {
        long tokenAddress = tokens.address();
        long tableAddress = table.address();
        long outAddress = out.address();
        long bytes = out.columns() * out.dtype().bytes();
        long tableRows = table.rows();
        return Tasks.overRows(workers, out, (from, to) -> {
            for (int t = from; t < to; t++) {
                long row = Vectors.getI32(tokenAddress, t) - first;
                if (row >= 0 && row < tableRows) {
                    MemorySegment.copy(ALL, tableAddress + row * bytes, ALL, outAddress + t * bytes, bytes);
                } else {
                    MemoryOps.zero(outAddress + t * bytes, bytes);
                }
            }
        });
    }

    static Runnable backward(
            Workers workers, Tensor tokens, Tensor gradOut, long first, Tensor gradTable, boolean accumulate) {
        Tasks.requireF32(gradTable, "gradTable");
        boolean bf16 = Tasks.isBf16(gradOut);
        long tokenAddress = tokens.address();
        long gradAddress = gradOut.address();
        long tableAddress = gradTable.address();
        long tableRows = gradTable.rows();
        int rows = Math.toIntExact(tokens.elements());
        int columns = Math.toIntExact(gradTable.columns());
        int tasks = Tasks.count(columns, COLUMNS);
        IntConsumer task = t -> {
            int from = t * COLUMNS;
            int to = Math.min(columns, from + COLUMNS);
            for (int row = 0; row < rows; row++) {
                long tableRow = Vectors.getI32(tokenAddress, row) - first;
                if (tableRow >= 0 && tableRow < tableRows) {
                    addRow(
                            bf16,
                            gradAddress + (long) row * columns * (bf16 ? 2 : 4),
                            tableAddress + 4 * tableRow * columns,
                            from,
                            to);
                }
            }
        };
        Runnable zero = MemoryOps.zero(workers, gradTable);
        return () -> {
            if (!accumulate) {
                zero.run();
            }
            workers.parallel(tasks, task);
        };
    }

    private static void addRow(boolean bf16, long gradRow, long tableRow, int from, int to) {
        int i = from;
        if (bf16) {
            for (; i <= to - LANES; i += LANES) {
                addLanes(true, gradRow, tableRow, i, LANES);
            }
            if (i < to) {
                addLanes(true, gradRow, tableRow, i, to - i);
            }
        } else {
            for (; i <= to - LANES; i += LANES) {
                addLanes(false, gradRow, tableRow, i, LANES);
            }
            if (i < to) {
                addLanes(false, gradRow, tableRow, i, to - i);
            }
        }
    }

    private static void addLanes(boolean bf16, long gradRow, long tableRow, int i, int count) {
        long at = tableRow + 4L * i;
        Vectors.storeF32(at, count, Vectors.loadF32(at, count).add(Vectors.load(bf16, gradRow, i, count)));
    }
}
