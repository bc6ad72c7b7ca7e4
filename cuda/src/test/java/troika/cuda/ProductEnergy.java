package troika.cuda;

import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import troika.cuda.CublasLt.Algorithm;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// Whether [ProductTimer] chooses well on a card whose power limit binds: runs the algorithms between which it decides
/// for 400 ms each without a pause, and prints their times in the last 250 ms, the card's power and the energy a run.
/// The products are those of deepseek-coder-1.3b on 8 sequences of 4096 tokens, in BF16.
final class ProductEnergy implements AutoCloseable {
    private static final int TOKENS = 8 * 4096;
    private static final int HIDDEN = 2048;
    private static final int INTERMEDIATE = 5504;
    private static final int VOCABULARY = 32256;
    private static final int LAYERS = 24;
    private static final int HEAD_ROWS = 4096;

    private static final double CHUNK_MILLISECONDS = 20;
    private static final double SETTLING_MILLISECONDS = 150;
    private static final double MEASURED_MILLISECONDS = 250;

    private final CudaDevice device;
    private final String bus;
    private final long handle;
    private final Memory workspace;
    private final long stream = Driver.streamCreate();
    private final Arena arena = Arena.ofShared();
    private final ProductTimer timer = new ProductTimer();
    private double chosenStep;
    private double bestStep;
    private double leastEnergyStep;

    private ProductEnergy(CudaDevice device) {
        this.device = device;
        bus = Driver.pciBusId(Driver.device(device.ordinal()));
        handle = CublasLt.create();
        workspace = device.allocate("workspace", ProductPlan.WORKSPACE_BYTES);
    }

    /// Arguments: none.
    public static void main(String[] arguments) throws InterruptedException {
        try (CudaDevice device =
                (CudaDevice) new CudaDeviceProvider().open("0", false).getFirst()) {
            device.bind();
            System.out.println(device.name() + ", cuBLASLt " + CublasLt.version());
            try (ProductEnergy energy = new ProductEnergy(device)) {
                energy.layer("query, key, value", TOKENS, HIDDEN, 3 * HIDDEN, LAYERS, false);
                energy.layer("attention's output", TOKENS, HIDDEN, HIDDEN, LAYERS, true);
                energy.layer("gate, up", TOKENS, HIDDEN, 2 * INTERMEDIATE, LAYERS, false);
                energy.layer("down", TOKENS, INTERMEDIATE, HIDDEN, LAYERS, true);
                energy.layer("head", HEAD_ROWS, HIDDEN, VOCABULARY, TOKENS / HEAD_ROWS, false);
                System.out.printf(
                        Locale.ROOT,
                        "step: chosen %.2f ms, best %.2f ms, ratio %.4f; those of least energy %.2f ms%n",
                        energy.chosenStep,
                        energy.bestStep,
                        energy.chosenStep / energy.bestStep,
                        energy.leastEnergyStep);
            }
        }
    }

    private void layer(String name, int rows, int inputs, int outputs, int times, boolean residual)
            throws InterruptedException {
        long bytesX = 2L * rows * inputs;
        long bytesWeight = 2L * outputs * inputs;
        long bytesOut = 2L * rows * outputs;
        Memory memory = device.allocate(name, bytesX + 3 * bytesWeight + 2 * bytesOut);
        Tensor x = memory.tensor(0, DType.BF16, Shape.of(rows, inputs));
        Tensor weight = memory.tensor(bytesX, DType.BF16, Shape.of(outputs, inputs));
        Tensor gradWeight = memory.tensor(bytesX + bytesWeight, DType.F32, Shape.of(outputs, inputs));
        Tensor out = memory.tensor(bytesX + 3 * bytesWeight, DType.BF16, Shape.of(rows, outputs));
        Tensor added = memory.tensor(bytesX + 3 * bytesWeight + bytesOut, DType.BF16, Shape.of(rows, outputs));
        product(name + ", forward", Product.linear(x, weight, residual ? added : null, out), times);
        product(name + ", backward input", Product.linearBackwardInput(out, weight, x), times);
        product(name + ", backward weight", Product.linearBackwardWeight(out, x, gradWeight, false), times);
        device.free(memory);
    }

    /// @param milliseconds of a run
    /// @param watts NaN where the card does not tell
    private record Sustained(double milliseconds, double watts) {
        double millijoules() {
            return watts * milliseconds;
        }
    }

    private void product(String name, Product.Call call, int times) throws InterruptedException {
        System.out.println(name + ": " + call.product());
        try (ProductPlan plan = new ProductPlan(handle, call.product(), arena)) {
            List<Algorithm> candidates = plan.candidates();
            ProductTimer.Measure measure = timer.measure(plan, call, candidates, workspace.address());
            List<ProductTimer.Fastest> finalists = ProductTimer.finalists(candidates.size(), measure);
            int choice = ProductTimer.best(finalists, measure).candidate();
            Sustained chosen = null;
            Sustained best = null;
            Sustained least = null;
            for (ProductTimer.Fastest finalist : finalists) {
                Algorithm algorithm = candidates.get(finalist.candidate());
                plan.use(algorithm, "sustained");
                Sustained now = sustained(plan, call, finalist.milliseconds());
                System.out.printf(
                        Locale.ROOT,
                        "  %s %.4f ms %6.1f W %8.1f mJ  number %d: %s%n",
                        finalist.candidate() == choice ? "*" : " ",
                        now.milliseconds,
                        now.watts,
                        now.millijoules(),
                        finalist.candidate() + 1,
                        algorithm);
                chosen = finalist.candidate() == choice ? now : chosen;
                best = best == null || now.milliseconds < best.milliseconds ? now : best;
                least = least == null || now.millijoules() < least.millijoules() ? now : least;
            }
            if (chosen == null || best == null || least == null) {
                throw new IllegalStateException("no algorithm ran for " + call.product());
            }
            System.out.printf(
                    Locale.ROOT,
                    "  chosen %.4f ms, best %.4f ms, ratio %.4f; that of least energy %.4f ms%n",
                    chosen.milliseconds,
                    best.milliseconds,
                    chosen.milliseconds / best.milliseconds,
                    least.milliseconds);
            chosenStep += times * chosen.milliseconds;
            bestStep += times * best.milliseconds;
            leastEnergyStep += times * least.milliseconds;
        }
    }

    /// Runs in chunks, of which one is always enqueued behind the one that runs.
    private Sustained sustained(ProductPlan plan, Product.Call call, double milliseconds) throws InterruptedException {
        int runs = Math.max(1, (int) Math.round(CHUNK_MILLISECONDS / milliseconds));
        int settling = (int) Math.ceil(SETTLING_MILLISECONDS / (runs * milliseconds));
        int measured = (int) Math.ceil(MEASURED_MILLISECONDS / (runs * milliseconds));
        long[] ends = new long[settling + measured];
        Meter meter = new Meter(bus);
        long start = 0;
        meter.start();
        try {
            for (int i = 0; i <= ends.length; i++) {
                for (int run = 0; run < runs; run++) {
                    int status = plan.run(call, workspace.address(), stream);
                    if (status != CublasLt.SUCCESS) {
                        throw new CudaException("cublasLtMatmul failed for " + call.product(), status);
                    }
                }
                if (i < ends.length) {
                    ends[i] = Driver.eventCreate(true);
                    Driver.eventRecord(ends[i], stream);
                }
                if (i > 0) {
                    Driver.eventSynchronize(ends[i - 1]);
                    start = i == settling ? System.nanoTime() : start;
                }
            }
        } finally {
            meter.end();
        }
        double watts = meter.watts(start);
        double elapsed = Driver.eventElapsed(ends[settling - 1], ends[ends.length - 1]);
        Driver.streamSynchronize(stream);
        for (long event : ends) {
            Driver.eventDestroy(event);
        }
        return new Sustained(elapsed / ((double) measured * runs), watts);
    }

    /// Looks at the card's energy counter until it is ended. The counter stands still most of the time, so that only
    /// the moments at which it moves say what was used between them.
    private static final class Meter extends Thread {
        private final String bus;
        private final List<long[]> moves = new ArrayList<>();
        private volatile boolean ended;

        Meter(String bus) {
            super("energy");
            this.bus = bus;
        }

        @Override
        public void run() {
            long last = Nvml.energy(bus);
            while (!ended) {
                long energy = Nvml.energy(bus);
                if (energy != last) {
                    last = energy;
                    moves.add(new long[] {System.nanoTime(), energy});
                }
                try {
                    Thread.sleep(1);
                } catch (InterruptedException e) {
                    return;
                }
            }
        }

        void end() throws InterruptedException {
            ended = true;
            join();
        }

        /// Average power between the first move since a moment of [System#nanoTime] and the last one.
        double watts(long since) {
            List<long[]> counted =
                    moves.stream().filter(move -> move[0] >= since).toList();
            if (counted.size() < 2) {
                return Double.NaN;
            }
            long[] first = counted.getFirst();
            long[] last = counted.getLast();
            return 1e6 * (last[1] - first[1]) / (last[0] - first[0]);
        }
    }

    @Override
    public void close() {
        timer.close();
        Driver.streamDestroy(stream);
        CublasLt.destroy(handle);
        arena.close();
        device.free(workspace);
    }
}
