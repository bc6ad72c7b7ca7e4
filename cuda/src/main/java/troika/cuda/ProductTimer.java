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
    private static final float CLOSE = 1.08f;
    private static final int FINALISTS = 5;
    private static final int ROUNDS = 3;
    private static final long WARM_UP_NANOS = 100_000_000;

    // From this time on a product is large enough for the card's power limit to bind in a step of many such. What is
    // fastest then is not what is fastest at the full clock, so that finalists run this long in each round.
    private static final float LARGE_MILLISECONDS = 0.1f;
    private static final float SUSTAINED_MILLISECONDS = 40;
    private static final int MOST_SUSTAINED_RUNS = 300;

    // A prime, so that the repeated pattern puts no two rows of a matrix beside equal rows.
    private static final int PATTERN = (1 << 17) - 1;

    private final long stream;
    private final long[] events = new long[MOST_RUNS + 1];
    private boolean warm;

    ProductTimer() {
        stream = Driver.streamCreate();
        Arrays.setAll(events, i -> Driver.eventCreate(true));
    }

    /// An algorithm, the winner or one that came close, and its time.
    record Fastest(int candidate, float milliseconds) {}

    /// How long a run of a candidate takes, in so many, in milliseconds; NaN where it does not run.
    @FunctionalInterface
    interface Measure {
        float milliseconds(int candidate, int runs);
    }

    /// Times the candidates on random data, which overwrites what the call's matrices hold: zeros would run faster
    /// than data, for they need less power. No other work may use them or the workspace.
    Fastest fastest(ProductPlan plan, Product.Call call, List<Algorithm> candidates, long workspace) {
        Product product = call.product();
        Fastest fastest = fastest(candidates.size(), measure(plan, call, candidates, workspace));
        // Nothing was there yet: see Stream.beginCapture.
        zero(call.a(), product.bytesA());
        zero(call.b(), product.bytesB());
        zero(call.d(), product.bytesD());
        if (product.adds()) {
            zero(call.c(), product.bytesD());
        }
        Driver.streamSynchronize(stream);
        if (Float.isNaN(fastest.milliseconds())) {
            throw new CudaException(
                    "none of cuBLASLt's " + candidates.size() + " algorithms ran for " + product,
                    CublasLt.NOT_SUPPORTED);
        }
        return fastest;
    }

    /// Fills the matrices with random data, wakes the card up, and returns what times candidates.
    Measure measure(ProductPlan plan, Product.Call call, List<Algorithm> candidates, long workspace) {
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
        return (candidate, runs) -> {
            plan.use(candidates.get(candidate), "timing");
            return typical(plan, call, workspace, runs);
        };
    }

    /// An idle card's clock is slow, and takes a while to rise.
    private void warmUp(ProductPlan plan, Product.Call call, Algorithm algorithm, long workspace) {
        plan.use(algorithm, "warming up");
        long end = System.nanoTime() + WARM_UP_NANOS;
        boolean runs = true;
        while (runs && System.nanoTime() < end) {
            runs = !Float.isNaN(typical(plan, call, workspace, MOST_RUNS));
        }
    }

    /// Those that come close to the best run again, see [#best].
    static Fastest fastest(int candidates, Measure measure) {
        return best(finalists(candidates, measure), measure);
    }

    /// Each candidate runs once to be loaded, once to see whether it is hopeless, and then some times; here are those
    /// that come close to the best, the fastest first.
    static List<Fastest> finalists(int candidates, Measure measure) {
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
        return IntStream.range(0, candidates)
                .filter(i -> times[i] <= bound)
                .mapToObj(i -> new Fastest(i, times[i]))
                .sorted((i, j) -> Float.compare(i.milliseconds, j.milliseconds))
                .limit(FINALISTS)
                .toList();
    }

    /// Finalists run again in turns, since the card's clock changes meanwhile, and for longer where they are large.
    static Fastest best(List<Fastest> finalists, Measure measure) {
        if (finalists.isEmpty()) {
            return new Fastest(-1, Float.NaN);
        }
        if (finalists.size() == 1) {
            return finalists.getFirst();
        }
        float best = finalists.getFirst().milliseconds;
        int runs = best >= LARGE_MILLISECONDS
                ? Math.clamp((long) (SUSTAINED_MILLISECONDS / best), LEAST_RUNS, MOST_SUSTAINED_RUNS)
                : runs(best);
        double[] again = new double[finalists.size()];
        // The first round brings the card to the clock that it keeps.
        for (int round = 0; round <= ROUNDS; round++) {
            for (int i = 0; i < again.length; i++) {
                float time = measure.milliseconds(finalists.get(i).candidate, runs);
                again[i] += round == 0 ? 0 : time;
            }
        }
        int winner = 0;
        for (int i = 1; i < again.length; i++) {
            winner = again[i] < again[winner] ? i : winner;
        }
        return new Fastest(finalists.get(winner).candidate, (float) (again[winner] / ROUNDS));
    }

    private static int runs(float milliseconds) {
        return Math.clamp((long) (CANDIDATE_MILLISECONDS / milliseconds), LEAST_RUNS, MOST_RUNS);
    }

    /// The median of so many runs, or, of more than there are events for, the mean.
    private float typical(ProductPlan plan, Product.Call call, long workspace, int runs) {
        Driver.eventRecord(events[0], stream);
        if (runs > MOST_RUNS) {
            for (int i = 0; i < runs; i++) {
                if (plan.run(call, workspace, stream) != CublasLt.SUCCESS) {
                    return Float.NaN;
                }
            }
            Driver.eventRecord(events[1], stream);
            Driver.eventSynchronize(events[1]);
            return Driver.eventElapsed(events[0], events[1]) / runs;
        }
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

    private void zero(long address, long bytes) {
        Driver.memsetD8Async(address, (byte) 0, bytes, stream);
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
