package troika.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import troika.cuda.CublasLt.Algorithm;
import troika.tensor.DType;

/// Finds the fastest algorithm of a product by running them, on a stream of its own.
final class ProductTimer implements AutoCloseable {
    private static final int MOST_RUNS = 20;
    private static final int LEAST_RUNS = 5;
    // What a candidate may take: 15 products of a model, 20 candidates each, stay within 2 to 3 seconds.
    private static final float CANDIDATE_MILLISECONDS = 5;
    private static final float HOPELESS = 1.5f;
    private static final float CLOSE = 1.04f;
    private static final int FINALISTS = 4;
    private static final long WARM_UP_NANOS = 100_000_000;

    // A prime, so that the repeated pattern puts no two rows of a matrix beside equal rows.
    private static final int PATTERN = (1 << 17) - 1;

    private final long stream;
    private final long[] events = new long[MOST_RUNS + 1];
    private boolean warm;

    ProductTimer() {
        stream = Driver.streamCreate();
        Arrays.setAll(events, i -> Driver.eventCreate(true));
    }

    /// The winner among algorithms and its time.
    record Fastest(int candidate, float milliseconds) {}

    /// How long a run of a candidate takes, the median of so many, in milliseconds; NaN where it does not run.
    @FunctionalInterface
    interface Measure {
        float milliseconds(int candidate, int runs);
    }

    /// Times the candidates on random data, which overwrites what the call's matrices hold: zeros would run faster
    /// than data, for they need less power. No other work may use them or the workspace.
    Fastest fastest(ProductPlan plan, Product.Call call, List<Algorithm> candidates, long workspace) {
        Product product = call.product();
        fill(call.a(), product.bytesA(), product.operands());
        fill(call.b(), product.bytesB(), product.operands());
        if (product.adds()) {
            fill(call.c(), product.bytesD(), product.result());
        }
        if (!warm) {
            warm = true;
            warmUp(plan, call, candidates.getFirst(), workspace);
        }
        Fastest fastest = fastest(candidates.size(), (candidate, runs) -> {
            plan.use(candidates.get(candidate), "timing");
            return median(plan, call, workspace, runs);
        });
        if (Float.isNaN(fastest.milliseconds())) {
            throw new CudaException(
                    "none of cuBLASLt's " + candidates.size() + " algorithms ran for " + product,
                    CublasLt.NOT_SUPPORTED);
        }
        return fastest;
    }

    /// An idle card's clock is slow, and takes a while to rise.
    private void warmUp(ProductPlan plan, Product.Call call, Algorithm algorithm, long workspace) {
        plan.use(algorithm, "warming up");
        long end = System.nanoTime() + WARM_UP_NANOS;
        boolean runs = true;
        while (runs && System.nanoTime() < end) {
            runs = !Float.isNaN(median(plan, call, workspace, MOST_RUNS));
        }
    }

    /// Each candidate runs once to be loaded, once to see whether it is hopeless, and then some times; those that come
    /// close to the best run again in turns, since the card's clock changes meanwhile.
    static Fastest fastest(int candidates, Measure measure) {
        float[] times = new float[candidates];
        float best = Float.NaN;
        for (int i = 0; i < candidates; i++) {
            times[i] = measure.milliseconds(i, 1);
            if (Float.isNaN(times[i])) {
                continue;
            }
            times[i] = measure.milliseconds(i, 1);
            if (times[i] > HOPELESS * best) {
                continue;
            }
            times[i] = measure.milliseconds(i, runs(times[i]));
            best = Float.isNaN(best) ? times[i] : Math.min(best, times[i]);
        }
        float bound = CLOSE * best;
        List<Integer> finalists = IntStream.range(0, candidates)
                .filter(i -> times[i] <= bound)
                .boxed()
                .sorted((i, j) -> Float.compare(times[i], times[j]))
                .limit(FINALISTS)
                .toList();
        if (finalists.isEmpty()) {
            return new Fastest(-1, Float.NaN);
        }
        if (finalists.size() > 1) {
            float[] again = new float[candidates];
            Arrays.fill(again, Float.POSITIVE_INFINITY);
            for (int round = 0; round < 2; round++) {
                for (int i : finalists) {
                    again[i] = Math.min(again[i], measure.milliseconds(i, runs(best)));
                }
            }
            finalists = finalists.stream()
                    .sorted((i, j) -> Float.compare(again[i], again[j]))
                    .toList();
            return new Fastest(finalists.getFirst(), again[finalists.getFirst()]);
        }
        return new Fastest(finalists.getFirst(), times[finalists.getFirst()]);
    }

    private static int runs(float milliseconds) {
        return Math.clamp((long) (CANDIDATE_MILLISECONDS / milliseconds), LEAST_RUNS, MOST_RUNS);
    }

    private float median(ProductPlan plan, Product.Call call, long workspace, int runs) {
        Driver.eventRecord(events[0], stream);
        for (int i = 1; i <= runs; i++) {
            if (plan.run(call, workspace, stream) != CublasLt.SUCCESS) {
                return Float.NaN;
            }
            Driver.eventRecord(events[i], stream);
        }
        Driver.eventSynchronize(events[runs]);
        float[] times = new float[runs];
        for (int i = 0; i < runs; i++) {
            times[i] = Driver.eventElapsed(events[i], events[i + 1]);
        }
        Arrays.sort(times);
        return times[runs / 2];
    }

    /// Numbers in (-0.5, 0.5), the same in every run.
    void fill(long address, long bytes, DType dtype) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment pattern = pattern(arena, dtype);
            long done = Math.min(bytes, pattern.byteSize());
            Driver.memcpyAsync(address, pattern.address(), done, stream);
            while (done < bytes) {
                long more = Math.min(done, bytes - done);
                Driver.memcpyAsync(address + done, address, more, stream);
                done += more;
            }
            Driver.streamSynchronize(stream);
        }
    }

    private static MemorySegment pattern(Arena arena, DType dtype) {
        MemorySegment pattern = arena.allocate((long) PATTERN * dtype.bytes(), 16);
        SplittableRandom random = new SplittableRandom(1);
        for (int i = 0; i < PATTERN; i++) {
            float value = (float) random.nextDouble(-0.5, 0.5);
            switch (dtype) {
                case F32 -> pattern.setAtIndex(ValueLayout.JAVA_FLOAT, i, value);
                case BF16 ->
                    pattern.setAtIndex(ValueLayout.JAVA_SHORT, i, (short) (Float.floatToRawIntBits(value) >>> 16));
                case F16 -> pattern.setAtIndex(ValueLayout.JAVA_SHORT, i, Float.floatToFloat16(value));
                case I32 -> throw new IllegalArgumentException("no products of I32");
            }
        }
        return pattern;
    }

    @Override
    public void close() {
        for (long event : events) {
            Driver.eventDestroy(event);
        }
        Driver.streamDestroy(stream);
    }
}
