package troika.cpu;

import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;
import troika.cpu.MatMul.Addend;
import troika.cpu.MatMul.Layout;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#linear] and the two backward products. A product is divided among the threads by rows or
/// columns of the result, in parts that depend on the sizes alone.
final class Linear {
    // Parts are whole multiples of what oneDNN computes at a time, and not so small that its overhead shows.
    private static final long STEP = 32;

    private Linear() {}

    static Runnable forward(CpuStream stream, Tensor x, Tensor weight, @Nullable Tensor residual, Tensor out) {
        long k = x.columns();
        long n = out.columns();
        DType dtype = x.dtype();
        Addend addend = Addend.NONE;
        long residualAddress = 0;
        if (residual != null) {
            residualAddress = residual.address();
            addend = residualAddress == out.address() ? Addend.C : Addend.OTHER;
        }
        MatMul.Key key = new MatMul.Key(
                x.rows(), n, k, Layout.rows(dtype, k), Layout.transposed(dtype, k), Layout.rows(dtype, n), addend);
        return product(stream, key, x.address(), weight.address(), out.address(), residualAddress);
    }

    static Runnable backwardInput(CpuStream stream, Tensor gradOut, Tensor weight, Tensor gradX) {
        long n = gradOut.columns();
        long k = gradX.columns();
        DType dtype = gradX.dtype();
        MatMul.Key key = new MatMul.Key(
                gradX.rows(), k, n, Layout.rows(dtype, n), Layout.rows(dtype, k), Layout.rows(dtype, k), Addend.NONE);
        return product(stream, key, gradOut.address(), weight.address(), gradX.address(), 0);
    }

    static Runnable backwardWeight(CpuStream stream, Tensor gradOut, Tensor x, Tensor gradWeight, boolean accumulate) {
        if (x.rows() == 0) {
            return accumulate ? () -> {} : MemoryOps.zero(stream.workers(), gradWeight);
        }
        long n = gradOut.columns();
        long k = x.columns();
        DType dtype = x.dtype();
        MatMul.Key key = new MatMul.Key(
                n,
                k,
                x.rows(),
                Layout.transposed(dtype, n),
                Layout.rows(dtype, k),
                Layout.rows(DType.F32, k),
                accumulate ? Addend.C : Addend.NONE);
        return product(stream, key, gradOut.address(), x.address(), gradWeight.address(), 0);
    }

    /// c (+)= a · b, on all threads of the stream.
    private static Runnable product(CpuStream stream, MatMul.Key key, long a, long b, long c, long addend) {
        if (key.m() == 0 || key.n() == 0) {
            return () -> {};
        }
        if (key.a().dtype() == DType.F16) {
            return HalfProduct.of(stream, key, a, b, c, addend);
        }
        int threads = stream.workers().threads();
        boolean byRows = key.m() >= key.n() || key.m() >= 2 * STEP * threads;
        long whole = byRows ? key.m() : key.n();
        long part = Math.min(whole, Math.ceilDiv(Math.ceilDiv(whole, threads), STEP) * STEP);
        long chunk = part;
        while (chunk > STEP && MatMul.of(part(key, byRows, chunk)).scratchBytes() > MatMul.SCRATCH_BYTES) {
            chunk = Math.ceilDiv(chunk / 2, STEP) * STEP;
        }
        int tasks = Math.toIntExact(Math.ceilDiv(whole, part));
        Part[] parts = new Part[tasks];
        for (int task = 0; task < tasks; task++) {
            long from = task * part;
            long size = Math.min(part, whole - from);
            int chunks = Math.toIntExact(Math.ceilDiv(size, chunk));
            MatMul.Call[] calls = new MatMul.Call[chunks];
            for (int i = 0; i < chunks; i++) {
                MatMul product = MatMul.of(part(key, byRows, Math.min(chunk, size - i * chunk)));
                calls[i] = stream.call(product, task);
            }
            parts[task] = byRows
                    ? new Part(
                            calls,
                            a + from * rowBytes(key.a()),
                            chunk * rowBytes(key.a()),
                            b,
                            0,
                            from * rowBytes(key.c()),
                            chunk * rowBytes(key.c()))
                    : new Part(
                            calls,
                            a,
                            0,
                            b + from * columnBytes(key.b()),
                            chunk * columnBytes(key.b()),
                            from * columnBytes(key.c()),
                            chunk * columnBytes(key.c()));
        }
        boolean other = key.addend() == Addend.OTHER;
        IntConsumer body = task -> parts[task].run(c, other, addend);
        return () -> stream.workers().parallel(tasks, body);
    }

    private static MatMul.Key part(MatMul.Key key, boolean byRows, long size) {
        return new MatMul.Key(
                byRows ? size : key.m(), byRows ? key.n() : size, key.k(), key.a(), key.b(), key.c(), key.addend());
    }

    private static long rowBytes(Layout layout) {
        return layout.dtype().bytes() * (layout.transposed() ? 1 : layout.stride());
    }

    private static long columnBytes(Layout layout) {
        return layout.dtype().bytes() * (layout.transposed() ? layout.stride() : 1);
    }

    /// One thread's part: its calls, and where the operands of the first lie and how far apart those of the next.
    private record Part(MatMul.Call[] calls, long a, long aStep, long b, long bStep, long offset, long step) {
        void run(long c, boolean other, long addend) {
            for (int i = 0; i < calls.length; i++) {
                long at = offset + i * step;
                if (other) {
                    calls[i].run(a + i * aStep, b + i * bStep, c + at, addend + at);
                } else {
                    calls[i].run(a + i * aStep, b + i * bStep, c + at);
                }
            }
        }
    }
}
