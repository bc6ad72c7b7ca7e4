package troika.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.ffi.Native;
import troika.ffi.NativeLibrary;
import troika.tensor.DType;

/// The functions of cuBLASLt (cublasLt.h of CUDA 12 and 13, whose numbers are the same) that products need. Objects of
/// the library and pointers are `long`; a status that is not success throws [CudaException].
final class CublasLt {
    /// sizeof(cublasLtMatmulAlgo_t)
    static final int ALGORITHM_BYTES = 64;

    /// cublasOperation_t: CUBLAS_OP_N, CUBLAS_OP_T
    static final int OP_N = 0;

    static final int OP_T = 1;

    /// CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_SUPPORTED
    static final int SUCCESS = 0;

    static final int NOT_SUPPORTED = 15;

    // cublasComputeType_t and cudaDataType. CUBLAS_COMPUTE_32F never rounds fp32 operands to TF32.
    private static final int CUBLAS_COMPUTE_32F = 68;
    private static final int CUDA_R_32F = 0;
    private static final int CUDA_R_16F = 2;
    private static final int CUDA_R_16BF = 14;

    private static final int CUBLASLT_MATMUL_DESC_TRANSA = 3;
    private static final int CUBLASLT_MATMUL_DESC_TRANSB = 4;

    private static final int CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1;
    private static final int CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3;
    private static final int CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5;

    private static final int CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2;

    private static final int CUBLASLT_ALGO_CONFIG_ID = 0;
    private static final int CUBLASLT_ALGO_CONFIG_TILE_ID = 1;
    private static final int CUBLASLT_ALGO_CONFIG_SPLITK_NUM = 2;
    private static final int CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME = 3;
    private static final int CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING = 4;
    private static final int CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION = 5;
    private static final int CUBLASLT_ALGO_CONFIG_STAGES_ID = 6;
    private static final int CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID = 8;

    // cublasLtMatmulHeuristicResult_t: the algorithm, size_t workspaceSize, cublasStatus_t state, float wavesCount,
    // int reserved[4].
    private static final long RESULT_BYTES = 96;
    private static final long RESULT_WORKSPACE = 64;
    private static final long RESULT_STATE = 72;

    private static final MemoryLayout LONG = ValueLayout.JAVA_LONG;
    private static final MemoryLayout INT = ValueLayout.JAVA_INT;

    private static final NativeLibrary LIBRARY = CudaLibraries.cublasLt();

    private static final MethodHandle CREATE = status("cublasLtCreate", LONG);
    private static final MethodHandle DESTROY = status("cublasLtDestroy", LONG);
    private static final MethodHandle VERSION = LIBRARY.function("cublasLtGetVersion", LONG, new MemoryLayout[0]);
    private static final MethodHandle DESC_CREATE = status("cublasLtMatmulDescCreate", LONG, INT, INT);
    private static final MethodHandle DESC_DESTROY = status("cublasLtMatmulDescDestroy", LONG);
    private static final MethodHandle DESC_SET = status("cublasLtMatmulDescSetAttribute", LONG, INT, LONG, LONG);
    private static final MethodHandle LAYOUT_CREATE = status("cublasLtMatrixLayoutCreate", LONG, INT, LONG, LONG, LONG);
    private static final MethodHandle LAYOUT_DESTROY = status("cublasLtMatrixLayoutDestroy", LONG);
    private static final MethodHandle PREFERENCE_CREATE = status("cublasLtMatmulPreferenceCreate", LONG);
    private static final MethodHandle PREFERENCE_DESTROY = status("cublasLtMatmulPreferenceDestroy", LONG);
    private static final MethodHandle PREFERENCE_SET =
            status("cublasLtMatmulPreferenceSetAttribute", LONG, INT, LONG, LONG);
    private static final MethodHandle HEURISTIC =
            status("cublasLtMatmulAlgoGetHeuristic", LONG, LONG, LONG, LONG, LONG, LONG, LONG, INT, LONG, LONG);
    private static final MethodHandle CHECK =
            status("cublasLtMatmulAlgoCheck", LONG, LONG, LONG, LONG, LONG, LONG, LONG, LONG);
    private static final MethodHandle CONFIG =
            status("cublasLtMatmulAlgoConfigGetAttribute", LONG, INT, LONG, LONG, LONG);
    private static final MethodHandle MATMUL = status(
            "cublasLtMatmul",
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG,
            LONG);

    private CublasLt() {}

    private static MethodHandle status(String function, MemoryLayout... arguments) {
        return LIBRARY.function(function, INT, arguments);
    }

    /// A handle of the library for the current context's device.
    static long create() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(LONG);
            check("cublasLtCreate", (int) CREATE.invokeExact(out.address()));
            return out.get(ValueLayout.JAVA_LONG, 0);
        } catch (Throwable e) {
            throw Native.failed("cublasLtCreate", e);
        }
    }

    static void destroy(long handle) {
        destroy("cublasLtDestroy", DESTROY, handle);
    }

    /// Gives back what a function of the library has made.
    private static void destroy(String function, MethodHandle destroy, long made) {
        try {
            check(function, (int) destroy.invokeExact(made));
        } catch (Throwable e) {
            throw Native.failed(function, e);
        }
    }

    /// The library's version, such as 130101.
    static long version() {
        try {
            return (long) VERSION.invokeExact();
        } catch (Throwable e) {
            throw Native.failed("cublasLtGetVersion", e);
        }
    }

    /// A product's operation, fp32 inside: op(a) · op(b), each [#OP_N] or [#OP_T].
    static long description(int a, int b) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(LONG);
            check("cublasLtMatmulDescCreate", (int)
                    DESC_CREATE.invokeExact(out.address(), CUBLAS_COMPUTE_32F, CUDA_R_32F));
            long description = out.get(ValueLayout.JAVA_LONG, 0);
            setOperation(arena, description, CUBLASLT_MATMUL_DESC_TRANSA, a);
            setOperation(arena, description, CUBLASLT_MATMUL_DESC_TRANSB, b);
            return description;
        } catch (Throwable e) {
            throw Native.failed("cublasLtMatmulDescCreate", e);
        }
    }

    private static void setOperation(Arena arena, long description, int attribute, int operation) throws Throwable {
        long value = arena.allocateFrom(ValueLayout.JAVA_INT, operation).address();
        check("cublasLtMatmulDescSetAttribute", (int) DESC_SET.invokeExact(description, attribute, value, 4L));
    }

    static void destroyDescription(long description) {
        destroy("cublasLtMatmulDescDestroy", DESC_DESTROY, description);
    }

    /// A column-major matrix without gaps.
    static long layout(DType dtype, long rows, long columns) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(LONG);
            int status = (int) LAYOUT_CREATE.invokeExact(out.address(), dataType(dtype), rows, columns, rows);
            check("cublasLtMatrixLayoutCreate", status);
            return out.get(ValueLayout.JAVA_LONG, 0);
        } catch (Throwable e) {
            throw Native.failed("cublasLtMatrixLayoutCreate", e);
        }
    }

    static void destroyLayout(long layout) {
        destroy("cublasLtMatrixLayoutDestroy", LAYOUT_DESTROY, layout);
    }

    /// The limits within which [#heuristic] searches.
    ///
    /// The library's results are the same from run to run on the same card, whatever else runs there, where
    /// the workspace is the caller's (cuBLAS documentation, "Results Reproducibility"); atomics are a mode of
    /// a few routines of cuBLAS, of no product. Of the ways to reduce a product whose k is split
    /// (cublasLtReductionScheme_t) only the one through fp32 partial sums and a separate step is allowed: in
    /// place, a tile's parts are added as their blocks take turns, and both that way and the one in the
    /// result's type would round partial sums to bf16.
    ///
    /// @param workspace the most bytes of workspace that an algorithm may take
    /// @param alignments of the addresses of a, b, c and d, in bytes
    static long preference(long workspace, int... alignments) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(LONG);
            check("cublasLtMatmulPreferenceCreate", (int) PREFERENCE_CREATE.invokeExact(out.address()));
            long preference = out.get(ValueLayout.JAVA_LONG, 0);
            MemorySegment bytes = arena.allocateFrom(ValueLayout.JAVA_LONG, workspace);
            setPreference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, bytes);
            MemorySegment schemes = arena.allocateFrom(ValueLayout.JAVA_INT, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
            setPreference(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
            for (int i = 0; i < alignments.length; i++) {
                // _B_, _C_ and _D_BYTES follow _A_BYTES.
                MemorySegment alignment = arena.allocateFrom(ValueLayout.JAVA_INT, alignments[i]);
                setPreference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i, alignment);
            }
            return preference;
        } catch (Throwable e) {
            throw Native.failed("cublasLtMatmulPreferenceCreate", e);
        }
    }

    private static void setPreference(long preference, int attribute, MemorySegment value) throws Throwable {
        int status = (int) PREFERENCE_SET.invokeExact(preference, attribute, value.address(), value.byteSize());
        check("cublasLtMatmulPreferenceSetAttribute", status);
    }

    static void destroyPreference(long preference) {
        destroy("cublasLtMatmulPreferenceDestroy", PREFERENCE_DESTROY, preference);
    }

    /// What cublasLtMatmul needs to know of a product; `d` describes c as well.
    record Matrices(long description, long a, long b, long d) {}

    /// One way to compute a product: a cublasLtMatmulAlgo_t, and the bytes of workspace that it takes.
    record Algorithm(byte[] bytes, long workspace) {
        /// Its configuration, for people.
        @Override
        public String toString() {
            try (Arena arena = Arena.ofConfined()) {
                MemorySegment algorithm = arena.allocate(ALGORITHM_BYTES, 8).copyFrom(MemorySegment.ofArray(bytes));
                return "algorithm " + attribute(arena, algorithm, CUBLASLT_ALGO_CONFIG_ID, 4)
                        + ", tile " + attribute(arena, algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, 4)
                        + ", stages " + attribute(arena, algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID, 4)
                        + ", cluster " + attribute(arena, algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2)
                        + ", swizzle " + attribute(arena, algorithm, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4)
                        + ", option " + attribute(arena, algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4)
                        + ", split " + attribute(arena, algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4)
                        + ", reduction " + attribute(arena, algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4)
                        + ", workspace " + workspace;
            }
        }
    }

    /// One number of an algorithm's configuration, or ? where the library does not tell.
    private static String attribute(Arena arena, MemorySegment algorithm, int attribute, long bytes) {
        MemorySegment value = arena.allocate(LONG);
        MemorySegment written = arena.allocate(LONG);
        try {
            int status =
                    (int) CONFIG.invokeExact(algorithm.address(), attribute, value.address(), bytes, written.address());
            return status == SUCCESS ? Long.toString(value.get(ValueLayout.JAVA_LONG, 0)) : "?";
        } catch (Throwable e) {
            throw Native.failed("cublasLtMatmulAlgoConfigGetAttribute", e);
        }
    }

    /// The algorithms that the library thinks fastest, best first; none where it has none for the product.
    static List<Algorithm> heuristic(long handle, Matrices matrices, long preference, int most) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment results = arena.allocate(most * RESULT_BYTES, 8);
            MemorySegment found = arena.allocate(INT);
            int status = (int) HEURISTIC.invokeExact(
                    handle,
                    matrices.description(),
                    matrices.a(),
                    matrices.b(),
                    matrices.d(),
                    matrices.d(),
                    preference,
                    most,
                    results.address(),
                    found.address());
            if (status == NOT_SUPPORTED) {
                return List.of();
            }
            check("cublasLtMatmulAlgoGetHeuristic", status);
            var algorithms = new ArrayList<Algorithm>();
            for (int i = 0; i < found.get(ValueLayout.JAVA_INT, 0); i++) {
                MemorySegment result = results.asSlice(i * RESULT_BYTES, RESULT_BYTES);
                if (result.get(ValueLayout.JAVA_INT, RESULT_STATE) == SUCCESS) {
                    algorithms.add(algorithm(result));
                }
            }
            return algorithms;
        } catch (Throwable e) {
            throw Native.failed("cublasLtMatmulAlgoGetHeuristic", e);
        }
    }

    private static Algorithm algorithm(MemorySegment result) {
        byte[] bytes = result.asSlice(0, ALGORITHM_BYTES).toArray(ValueLayout.JAVA_BYTE);
        return new Algorithm(bytes, result.get(ValueLayout.JAVA_LONG, RESULT_WORKSPACE));
    }

    /// The algorithm that `bytes` are, or null where it cannot compute the product on this card.
    static @Nullable Algorithm checked(long handle, Matrices matrices, byte[] bytes) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment algorithm = arena.allocate(ALGORITHM_BYTES, 8).copyFrom(MemorySegment.ofArray(bytes));
            MemorySegment result = arena.allocate(RESULT_BYTES, 8);
            int status = (int) CHECK.invokeExact(
                    handle,
                    matrices.description(),
                    matrices.a(),
                    matrices.b(),
                    matrices.d(),
                    matrices.d(),
                    algorithm.address(),
                    result.address());
            // The result tells the workspace; its copy of the algorithm is not documented to be filled.
            return status == SUCCESS ? new Algorithm(bytes, result.get(ValueLayout.JAVA_LONG, RESULT_WORKSPACE)) : null;
        } catch (Throwable e) {
            throw Native.failed("cublasLtMatmulAlgoCheck", e);
        }
    }

    /// Enqueues d = op(a) · op(b) + beta · c and returns the status: what fails here fails before anything is enqueued.
    ///
    /// @param alpha and beta: host addresses of floats
    /// @param algorithm host address of the algorithm's bytes
    static int matmul(
            long handle,
            Matrices matrices,
            long alpha,
            long a,
            long b,
            long beta,
            long c,
            long d,
            long algorithm,
            long workspace,
            long workspaceBytes,
            long stream) {
        try {
            return (int) MATMUL.invokeExact(
                    handle,
                    matrices.description(),
                    alpha,
                    a,
                    matrices.a(),
                    b,
                    matrices.b(),
                    beta,
                    c,
                    matrices.d(),
                    d,
                    matrices.d(),
                    algorithm,
                    workspace,
                    workspaceBytes,
                    stream);
        } catch (Throwable e) {
            throw Native.failed("cublasLtMatmul", e);
        }
    }

    private static int dataType(DType dtype) {
        return switch (dtype) {
            case F32 -> CUDA_R_32F;
            case F16 -> CUDA_R_16F;
            case BF16 -> CUDA_R_16BF;
            case I32 -> throw new IllegalArgumentException("no products of I32");
        };
    }

    private static void check(String function, int status) {
        if (status != SUCCESS) {
            throw new CudaException(function + " returned " + CublasStatus.describe(status), status);
        }
    }
}
