package troika.cpu;

import troika.cpu.MatMul.Addend;
import troika.cpu.MatMul.Layout;
import troika.ffi.NativeMemory;
import troika.tensor.DType;

/// Prints what single products cost on one thread.
final class MatMulTimings {
    private MatMulTimings() {}

    public static void main(String[] args) {
        OneDnn.singleThreaded();
        long memory = NativeMemory.allocate(512L << 20);
        DType t = DType.BF16;
        int[][] kn = {{256, 768}, {256, 256}, {256, 1376}, {688, 256}, {256, 4096}};
        for (int[] s : kn) {
            int k = s[0];
            int n = s[1];
            time(
                    "forward",
                    new MatMul.Key(
                            1024, n, k, Layout.rows(t, k), Layout.transposed(t, k), Layout.rows(t, n), Addend.NONE),
                    memory);
            time(
                    "dX",
                    new MatMul.Key(1024, k, n, Layout.rows(t, n), Layout.rows(t, k), Layout.rows(t, k), Addend.NONE),
                    memory);
            time(
                    "dW",
                    new MatMul.Key(
                            n / 2,
                            k,
                            2048,
                            Layout.transposed(t, n),
                            Layout.rows(t, k),
                            Layout.rows(DType.F32, k),
                            Addend.NONE),
                    memory);
            time(
                    "dW+",
                    new MatMul.Key(
                            n / 2,
                            k,
                            2048,
                            Layout.transposed(t, n),
                            Layout.rows(t, k),
                            Layout.rows(DType.F32, k),
                            Addend.C),
                    memory);
            time(
                    "dW k/2",
                    new MatMul.Key(
                            n,
                            k / 2,
                            2048,
                            Layout.transposed(t, n),
                            Layout.rows(t, k),
                            Layout.rows(DType.F32, k),
                            Addend.NONE),
                    memory);
        }
        time(
                "big fwd",
                new MatMul.Key(
                        4096,
                        11008,
                        4096,
                        Layout.rows(t, 4096),
                        Layout.transposed(t, 4096),
                        Layout.rows(t, 11008),
                        Addend.NONE),
                memory);
        time(
                "big dW",
                new MatMul.Key(
                        5504,
                        4096,
                        8192,
                        Layout.transposed(t, 11008),
                        Layout.rows(t, 4096),
                        Layout.rows(DType.F32, 4096),
                        Addend.C),
                memory);
        for (DType u : new DType[] {DType.BF16, DType.F32}) {
            for (int q : new int[] {64, 128, 256}) {
                for (int key : new int[] {64, 128, 256, 512}) {
                    for (int d : new int[] {32, 128}) {
                        int c = 24 * d;
                        time(
                                "QK",
                                new MatMul.Key(
                                        q,
                                        key,
                                        d,
                                        Layout.rows(u, c),
                                        Layout.transposed(u, c),
                                        Layout.rows(DType.F32, key),
                                        Addend.NONE),
                                memory);
                        time(
                                "PV",
                                new MatMul.Key(
                                        q,
                                        d,
                                        key,
                                        Layout.rows(u, key),
                                        Layout.rows(u, c),
                                        Layout.rows(DType.F32, d),
                                        Addend.NONE),
                                memory);
                        time(
                                "PV+",
                                new MatMul.Key(
                                        q,
                                        d,
                                        key,
                                        Layout.rows(u, key),
                                        Layout.rows(u, c),
                                        Layout.rows(DType.F32, d),
                                        Addend.C),
                                memory);
                        time(
                                "PtdO",
                                new MatMul.Key(
                                        key,
                                        d,
                                        q,
                                        Layout.transposed(u, key),
                                        Layout.rows(u, c),
                                        Layout.rows(DType.F32, d),
                                        Addend.C),
                                memory);
                        time(
                                "PtdO packed",
                                new MatMul.Key(
                                        key,
                                        d,
                                        q,
                                        Layout.rows(u, q),
                                        Layout.rows(u, c),
                                        Layout.rows(DType.F32, d),
                                        Addend.C),
                                memory);
                    }
                }
            }
        }
    }

    private static void time(String name, MatMul.Key key, long memory) {
        MatMul product = MatMul.of(key);
        MatMul.Call call = new MatMul.Call(product, memory + (400L << 20));
        double flops = 2.0 * key.m() * key.n() * key.k();
        int repeats = (int) Math.max(1, Math.min(20000, 5e9 / flops));
        double best = Double.MAX_VALUE;
        for (int round = 0; round < 3; round++) {
            long start = System.nanoTime();
            for (int i = 0; i < repeats; i++) {
                call.run(memory, memory + (100L << 20), memory + (200L << 20));
            }
            best = Math.min(best, (System.nanoTime() - start) / (double) repeats);
        }
        System.out.printf(
                "%-12s m %5d n %5d k %5d %s: %9.1f us %7.1f GFLOP/s scratch %d %s%n",
                name,
                key.m(),
                key.n(),
                key.k(),
                key.a().dtype(),
                best / 1e3,
                flops / best,
                product.scratchBytes(),
                product.implementation());
    }
}
