package troika.cuda;

import java.lang.foreign.Arena;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.cuda.CublasLt.Algorithm;
import troika.tensor.Tensor;

/// The products of linear layers, by cuBLASLt: see [troika.tensor.Kernels#linear]. Operands are F32 (never rounded to
/// TF32), BF16 or F16; sums are fp32.
///
/// The algorithm of a product is chosen when it is first enqueued, and kept. While the stream captures, the tensors'
/// contents may be overwritten: then the library's candidates are timed, and the winner is saved in the device's cache
/// for later runs. Outside of a capture, the saved one is taken, or else the first that the library's heuristic gives.
/// A deterministic device always takes that first one: what is timed or saved may differ from run to run, and with it
/// the order in which sums are taken.
final class Products implements AutoCloseable {
    /// Ranks of one process time in turns: those that share a card would disturb each other, and those of like cards
    /// find what the first has saved.
    private static final Object TIMING = new Object();

    private final CudaDevice device;
    private final DiskCache cache;
    private final long handle;
    private final String cacheKeyPrefix;
    private final Arena arena = Arena.ofShared();
    private final Map<Product, ProductPlan> plans = new LinkedHashMap<>();
    private @Nullable ProductTimer timer;

    Products(CudaDevice device) {
        this(device, device.cache());
    }

    /// @param cache where chosen algorithms are kept
    Products(CudaDevice device, DiskCache cache) {
        this.device = device;
        this.cache = cache;
        device.bind();
        handle = CublasLt.create();
        cacheKeyPrefix = device.identity() + ", cuBLASLt " + CublasLt.version() + ", product ";
    }

    /// out = x · weightᵀ (+ residual)
    void linear(CudaStream stream, Tensor x, Tensor weight, @Nullable Tensor residual, Tensor out) {
        enqueue(stream, Product.linear(x, weight, residual, out));
    }

    /// gradX = gradOut · weight
    void linearBackwardInput(CudaStream stream, Tensor gradOut, Tensor weight, Tensor gradX) {
        enqueue(stream, Product.linearBackwardInput(gradOut, weight, gradX));
    }

    /// gradWeight (+)= gradOutᵀ · x
    void linearBackwardWeight(CudaStream stream, Tensor gradOut, Tensor x, Tensor gradWeight, boolean accumulate) {
        enqueue(stream, Product.linearBackwardWeight(gradOut, x, gradWeight, accumulate));
    }

    /// The algorithm of each product so far, in the order in which they came, for the report of a run.
    synchronized Map<String, String> choices() {
        Map<String, String> choices = new LinkedHashMap<>();
        plans.forEach((product, plan) -> choices.put(product.toString(), plan.choice()));
        return choices;
    }

    private synchronized void enqueue(CudaStream stream, Product.Call call) {
        Product product = call.product();
        if (product.m() == 0 || product.n() == 0) {
            return;
        }
        if (product.k() == 0) {
            if (!product.adds()) {
                Driver.memsetD8Async(call.d(), (byte) 0, product.bytesD(), stream.handle());
            }
            return;
        }
        if (stream.workspaceBytes() < ProductPlan.WORKSPACE_BYTES) {
            throw new IllegalArgumentException("a product on a stream of " + stream.workspaceBytes()
                    + " bytes of workspace; it takes " + ProductPlan.WORKSPACE_BYTES);
        }
        ProductPlan plan = plans.get(product);
        if (plan == null) {
            plan = planned(stream, call);
            plans.put(product, plan);
        }
        int status = plan.run(call, stream.workspace(), stream.handle());
        if (status != CublasLt.SUCCESS) {
            throw new CudaException(
                    "cublasLtMatmul returned " + CublasStatus.describe(status) + " for " + product + ", "
                            + plan.choice(),
                    status);
        }
    }

    private ProductPlan planned(CudaStream stream, Product.Call call) {
        ProductPlan plan = new ProductPlan(handle, call.product(), arena);
        boolean chosen = false;
        try {
            choose(plan, stream, call);
            chosen = true;
            return plan;
        } finally {
            if (!chosen) {
                plan.close();
            }
        }
    }

    private void choose(ProductPlan plan, CudaStream stream, Product.Call call) {
        if (device.deterministic()) {
            plan.use(plan.first(), "the heuristic's first");
            return;
        }
        if (useSaved(plan, call.product())) {
            return;
        }
        if (!Driver.streamIsCapturing(stream.handle())) {
            plan.use(plan.first(), "the heuristic's first");
            return;
        }
        synchronized (TIMING) {
            if (!useSaved(plan, call.product())) {
                useFastest(plan, stream, call);
            }
        }
    }

    private boolean useSaved(ProductPlan plan, Product product) {
        SavedAlgorithm saved = SavedAlgorithm.decode(cache.get(cacheKey(product)));
        Algorithm algorithm = saved == null ? null : plan.checked(saved.bytes());
        if (saved == null || algorithm == null) {
            return false;
        }
        plan.use(algorithm, "saved, " + saved.milliseconds() + " ms");
        return true;
    }

    String cacheKey(Product product) {
        return cacheKeyPrefix + product;
    }

    private void useFastest(ProductPlan plan, CudaStream stream, Product.Call call) {
        // Where there is no candidate, first() says so.
        List<Algorithm> candidates = plan.candidates();
        if (candidates.size() < 2) {
            plan.use(plan.first(), "the only one");
            return;
        }
        ProductTimer times = timer;
        if (times == null) {
            times = new ProductTimer();
            timer = times;
        }
        ProductTimer.Fastest fastest = times.fastest(plan, call, candidates, stream.workspace());
        Algorithm algorithm = candidates.get(fastest.candidate());
        String origin = "fastest of " + candidates.size() + ", " + fastest.milliseconds() + " ms";
        plan.use(algorithm, origin + ", the heuristic's number " + (fastest.candidate() + 1));
        SavedAlgorithm saved = new SavedAlgorithm(algorithm.bytes(), fastest.milliseconds());
        cache.put(cacheKey(call.product()), saved.encoded());
    }

    @Override
    public synchronized void close() {
        plans.values().forEach(plan -> device.release(plan::close));
        plans.clear();
        if (timer != null) {
            device.release(timer::close);
        }
        device.release(() -> CublasLt.destroy(handle));
        arena.close();
    }
}
