package troika.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.cuda.CublasLt.Algorithm;

/// What cuBLASLt needs to compute a product: the descriptions of the operation and the matrices, and an algorithm.
final class ProductPlan implements AutoCloseable {
    /// The most workspace that an algorithm may take. Those of Hopper want 32 MiB; more rarely helps.
    static final long WORKSPACE_BYTES = 64L << 20;

    // An algorithm that does without workspace may be the faster one, but lies far down the list where there is some.
    private static final long[] LIMITS = {WORKSPACE_BYTES, 32L << 20, 0};
    private static final int[] WANTED = {16, 8, 8};

    private final long handle;
    private final Product product;
    private final CublasLt.Matrices matrices;
    private final MemorySegment one;
    private final MemorySegment addition;
    private final MemorySegment algorithm;
    private String choice = "";

    /// @param arena where the plan keeps what the library reads of the host's memory
    ProductPlan(long handle, Product product, Arena arena) {
        this.handle = handle;
        this.product = product;
        Product.Kind kind = product.kind();
        boolean ta = kind.transposedA();
        boolean tb = kind.transposedB();
        long m = product.m();
        long n = product.n();
        long k = product.k();
        matrices = new CublasLt.Matrices(
                CublasLt.description(ta ? CublasLt.OP_T : CublasLt.OP_N, tb ? CublasLt.OP_T : CublasLt.OP_N),
                CublasLt.layout(product.operands(), ta ? k : m, ta ? m : k),
                CublasLt.layout(product.operands(), tb ? n : k, tb ? k : n),
                CublasLt.layout(product.result(), m, n));
        one = arena.allocateFrom(ValueLayout.JAVA_FLOAT, 1);
        addition = arena.allocateFrom(ValueLayout.JAVA_FLOAT, product.adds() ? 1 : 0);
        algorithm = arena.allocate(CublasLt.ALGORITHM_BYTES, 8);
    }

    /// The algorithm that the heuristic thinks fastest. Throws [CudaException] where there is none.
    Algorithm first() {
        List<Algorithm> found = heuristic(WORKSPACE_BYTES, 1);
        if (found.isEmpty()) {
            throw new CudaException("cuBLASLt has no algorithm for " + product, CublasLt.NOT_SUPPORTED);
        }
        return found.getFirst();
    }

    /// The algorithms worth timing, those that the heuristic thinks fastest first; none twice.
    List<Algorithm> candidates() {
        List<Algorithm> candidates = new ArrayList<>();
        for (int i = 0; i < LIMITS.length; i++) {
            addNew(candidates, heuristic(LIMITS[i], WANTED[i]));
        }
        return candidates;
    }

    static void addNew(List<Algorithm> algorithms, List<Algorithm> more) {
        for (Algorithm algorithm : more) {
            if (algorithms.stream().noneMatch(other -> Arrays.equals(other.bytes(), algorithm.bytes()))) {
                algorithms.add(algorithm);
            }
        }
    }

    private List<Algorithm> heuristic(long workspace, int most) {
        long preference = CublasLt.preference(
                workspace, product.alignmentA(), product.alignmentB(), product.alignmentC(), product.alignmentD());
        try {
            return CublasLt.heuristic(handle, matrices, preference, most);
        } finally {
            CublasLt.destroyPreference(preference);
        }
    }

    /// A saved algorithm, or null where it does not fit the product, this card or the workspace.
    @Nullable
    Algorithm checked(byte[] saved) {
        Algorithm known = CublasLt.checked(handle, matrices, saved);
        return known != null && known.workspace() <= WORKSPACE_BYTES ? known : null;
    }

    /// Computes with an algorithm from now on.
    ///
    /// @param origin where it comes from, for [#choice]
    void use(Algorithm chosen, String origin) {
        algorithm.copyFrom(MemorySegment.ofArray(chosen.bytes()));
        choice = origin + ": " + chosen;
    }

    /// The algorithm in use and where it comes from, for people.
    String choice() {
        return choice;
    }

    /// Enqueues the product and returns cuBLASLt's status.
    ///
    /// @param workspace device address of [#WORKSPACE_BYTES] bytes
    int run(Product.Call call, long workspace, long stream) {
        return CublasLt.matmul(
                handle,
                matrices,
                one.address(),
                call.a(),
                call.b(),
                addition.address(),
                call.c(),
                call.d(),
                algorithm.address(),
                workspace,
                WORKSPACE_BYTES,
                stream);
    }

    @Override
    public void close() {
        CublasLt.destroyDescription(matrices.description());
        CublasLt.destroyLayout(matrices.a());
        CublasLt.destroyLayout(matrices.b());
        CublasLt.destroyLayout(matrices.d());
    }
}
