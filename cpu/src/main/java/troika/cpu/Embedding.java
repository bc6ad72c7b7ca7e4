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

    static Runnable forward(Workers workers, Tensor tokens, Tensor table, Tensor out) {
        long tokenAddress = tokens.address();
        long tableAddress = table.address();
        long outAddress = out.address();
        long bytes = out.columns() * out.dtype().bytes();
        return Tasks.overRows(workers, out, (from, to) -> {
            for (int t = from; t < to; t++) {
                long row = tableAddress + Vectors.getI32(tokenAddress, t) * bytes;
                MemorySegment.copy(ALL, row, ALL, outAddress + t * bytes, bytes);
            }
        });
    }

    static Runnable backward(Workers workers, Tensor tokens, Tensor gradOut, Tensor gradTable, boolean accumulate) {
        Tasks.requireF32(gradTable, "gradTable");
        boolean bf16 = Tasks.isBf16(gradOut);
        long tokenAddress = tokens.address();
        long gradAddress = gradOut.address();
        long tableAddress = gradTable.address();
        int rows = Math.toIntExact(tokens.elements());
        int columns = Math.toIntExact(gradTable.columns());
        int tasks = Tasks.count(columns, COLUMNS);
        IntConsumer task = t -> {
            int from = t * COLUMNS;
            int to = Math.min(columns, from + COLUMNS);
            addRow(bf16, tokenAddress, gradAddress, tableAddress, rows, columns, from, to);
        };
        Runnable zero = MemoryOps.zero(workers, gradTable);
        return () -> {
            if (!accumulate) {
                zero.run();
            }
            workers.parallel(tasks, task);
        };
    }

    private static void addRow(
            boolean bf16, long tokens, long gradOut, long gradTable, int rows, int columns, int from, int to) {
        for (int t = 0; t < rows; t++) {
            long gradRow = gradOut + (long) t * columns * (bf16 ? 2 : 4);
            long tableRow = gradTable + 4L * Vectors.getI32(tokens, t) * columns;
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
    }

    private static void addLanes(boolean bf16, long gradRow, long tableRow, int i, int count) {
        long at = tableRow + 4L * i;
        Vectors.storeF32(at, count, Vectors.loadF32(at, count).add(Vectors.load(bf16, gradRow, i, count)));
    }
}
