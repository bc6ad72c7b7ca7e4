package troika.cpu;

import java.util.function.IntConsumer;
import troika.cpu.MatMul.Addend;
import troika.cpu.MatMul.Layout;
import troika.tensor.DType;

/// A matrix product of F16 operands, tile by tile of the result: panels of the operands are brought to F32 in the
/// thread's slot, their products add up there, and the tile is rounded (or added) to where it belongs.
final class HalfProduct {
    private static final int TILE = 256;
    private static final int PANEL = 512;

    private final CpuStream stream;
    private final MatMul.Key key;
    private final long a;
    private final long b;
    private final long c;
    private final long addend;

    private HalfProduct(CpuStream stream, MatMul.Key key, long a, long b, long c, long addend) {
        this.stream = stream;
        this.key = key;
        this.a = a;
        this.b = b;
        this.c = c;
        this.addend = key.addend() == Addend.C ? c : addend;
    }

    /// c (+)= a · b, where a and b are F16 and c is F16 or F32, on all threads of the stream.
    static Runnable of(CpuStream stream, MatMul.Key key, long a, long b, long c, long addend) {
        HalfProduct product = new HalfProduct(stream, key, a, b, c, addend);
        int columns = Tasks.count(key.n(), TILE);
        int tiles = Math.multiplyExact(Tasks.count(key.m(), TILE), columns);
        int slots = Math.min(stream.workers().threads(), tiles);
        Tile[][] prepared = new Tile[slots][];
        for (int slot = 0; slot < slots; slot++) {
            prepared[slot] = new Tile[Tasks.count((long) tiles - slot, slots)];
            for (int i = 0; i < prepared[slot].length; i++) {
                int tile = slot + i * slots;
                prepared[slot][i] = product.tile(slot, tile / columns, tile % columns);
            }
        }
        IntConsumer task = slot -> {
            for (Tile tile : prepared[slot]) {
                tile.run();
            }
        };
        return () -> stream.workers().parallel(slots, task);
    }

    private Tile tile(int slot, int i, int j) {
        long row = (long) i * TILE;
        long column = (long) j * TILE;
        int rows = (int) Math.min(TILE, key.m() - row);
        int columns = (int) Math.min(TILE, key.n() - column);
        MatMul.Call[] calls = new MatMul.Call[Tasks.count(key.k(), PANEL)];
        for (int panel = 0; panel < calls.length; panel++) {
            int depth = (int) Math.min(PANEL, key.k() - (long) panel * PANEL);
            MatMul.Key part = new MatMul.Key(
                    rows,
                    columns,
                    depth,
                    panel(key.a(), rows, depth),
                    panel(key.b(), depth, columns),
                    Layout.rows(DType.F32, columns),
                    panel == 0 ? Addend.NONE : Addend.C);
            calls[panel] = stream.call(MatMul.of(part), slot);
        }
        return new Tile(calls, stream.slotAddress(slot) + MatMul.SCRATCH_BYTES, row, column, rows, columns);
    }

    // A part of an operand without gaps, in the order that it has in memory.
    private static Layout panel(Layout layout, int rows, int columns) {
        return layout.transposed() ? Layout.transposed(DType.F32, rows) : Layout.rows(DType.F32, columns);
    }

    private static void load(Layout layout, long address, long row, long column, int rows, int columns, long to) {
        if (layout.transposed()) {
            Half.loadRows(address + 2 * (column * layout.stride() + row), layout.stride(), columns, rows, to);
        } else {
            Half.loadRows(address + 2 * (row * layout.stride() + column), layout.stride(), rows, columns, to);
        }
    }

    /// A tile of the result, by one thread.
    private final class Tile {
        private final MatMul.Call[] calls;
        private final long sums;
        private final long panelA;
        private final long panelB;
        private final long row;
        private final long column;
        private final int rows;
        private final int columns;

        Tile(MatMul.Call[] calls, long memory, long row, long column, int rows, int columns) {
            this.calls = calls;
            sums = memory;
            panelA = sums + 4L * TILE * TILE;
            panelB = panelA + 4L * TILE * PANEL;
            this.row = row;
            this.column = column;
            this.rows = rows;
            this.columns = columns;
        }

        void run() {
            for (int panel = 0; panel < calls.length; panel++) {
                long first = (long) panel * PANEL;
                int depth = (int) Math.min(PANEL, key.k() - first);
                load(key.a(), a, row, first, rows, depth, panelA);
                load(key.b(), b, first, column, depth, columns, panelB);
                calls[panel].run(panelA, panelB, sums);
            }
            for (int i = 0; i < rows; i++) {
                long at = (row + i) * key.c().stride() + column;
                long sum = sums + 4L * i * columns;
                if (key.c().dtype() == DType.F32) {
                    store(sum, at);
                } else {
                    round(sum, at);
                }
            }
        }

        private void store(long sum, long at) {
            for (int j = 0; j < columns; j++) {
                float before = key.addend() == Addend.NONE ? 0 : Vectors.getF32(addend + 4 * (at + j));
                Vectors.putF32(c + 4 * (at + j), before + Vectors.getF32(sum + 4L * j));
            }
        }

        private void round(long sum, long at) {
            if (key.addend() != Addend.NONE) {
                // The panels are done with.
                Half.load(addend + 2 * at, panelA, columns);
                MemoryOps.add(panelA, sum, columns);
            }
            Half.store(sum, c + 2 * at, columns);
        }
    }
}
