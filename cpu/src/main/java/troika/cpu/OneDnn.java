package troika.cpu;

import java.lang.foreign.MemoryLayout;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import org.jspecify.annotations.Nullable;
import troika.ffi.Native;
import troika.ffi.NativeException;
import troika.ffi.NativeLibrary;
import troika.ffi.NativeMemory;
import troika.tensor.DType;

/// The functions of oneDNN (dnnl.h, version 3) that matrix products need. Objects of the library are `long`.
final class OneDnn {
    static final int ARG_SRC = 1;
    static final int ARG_DST = 17;
    static final int ARG_WEIGHTS = 33;
    static final int ARG_SCRATCHPAD = 80;
    static final int ARG_POST_OP_0_SRC_1 = 32768 | 2;

    private static final int ENGINE_CPU = 1;
    private static final int STREAM_IN_ORDER = 1;
    private static final int SCRATCHPAD_USER = 1;
    private static final int FPMATH_STRICT = 0;
    private static final int BINARY_ADD = 0x1fff0;
    private static final int QUERY_IMPLEMENTATION = 8;
    private static final int QUERY_SCRATCHPAD = 136;

    private static final int AVX512_BITS = 0x27;
    private static final int AVX512_BF16_BITS = 0xe7;
    private static final int AMX_BITS = 0xfef;

    private static final MemoryLayout LONG = ValueLayout.JAVA_LONG;
    private static final MemoryLayout INT = ValueLayout.JAVA_INT;
    private static final MemoryLayout FLOAT = ValueLayout.JAVA_FLOAT;

    private static final String FOLDER = "org/bytedeco/dnnl/linux-x86_64";
    private static final NativeLibrary GOMP = NativeLibrary.load(FOLDER, "libgomp.so.1");
    // oneDNN needs libgomp by its soname, so it must come second.
    private static final NativeLibrary DNNL = NativeLibrary.load(FOLDER, "libdnnl.so.3");

    private static final MethodHandle SET_THREADS =
            GOMP.function("omp_set_num_threads", null, new MemoryLayout[] {INT});
    private static final MethodHandle ENGINE_CREATE = status("dnnl_engine_create", LONG, INT, LONG);
    private static final MethodHandle STREAM_CREATE = status("dnnl_stream_create", LONG, LONG, INT);
    private static final MethodHandle DESC_CREATE =
            status("dnnl_memory_desc_create_with_strides", LONG, INT, LONG, INT, LONG);
    private static final MethodHandle DESC_SIZE =
            DNNL.function("dnnl_memory_desc_get_size", LONG, new MemoryLayout[] {LONG});
    private static final MethodHandle MEMORY_CREATE = status("dnnl_memory_create", LONG, LONG, LONG, LONG);
    private static final MethodHandle MEMORY_SET = status("dnnl_memory_set_data_handle", LONG, LONG);
    private static final MethodHandle ATTR_CREATE = status("dnnl_primitive_attr_create", LONG);
    private static final MethodHandle ATTR_DESTROY = status("dnnl_primitive_attr_destroy", LONG);
    private static final MethodHandle ATTR_SCRATCHPAD = status("dnnl_primitive_attr_set_scratchpad_mode", LONG, INT);
    private static final MethodHandle ATTR_FPMATH = status("dnnl_primitive_attr_set_fpmath_mode", LONG, INT);
    private static final MethodHandle ATTR_DETERMINISTIC = status("dnnl_primitive_attr_set_deterministic", LONG, INT);
    private static final MethodHandle ATTR_POST_OPS = status("dnnl_primitive_attr_set_post_ops", LONG, LONG);
    private static final MethodHandle POST_OPS_CREATE = status("dnnl_post_ops_create", LONG);
    private static final MethodHandle POST_OPS_DESTROY = status("dnnl_post_ops_destroy", LONG);
    private static final MethodHandle POST_OPS_SUM = status("dnnl_post_ops_append_sum", LONG, FLOAT, INT, INT);
    private static final MethodHandle POST_OPS_BINARY = status("dnnl_post_ops_append_binary", LONG, INT, LONG);
    private static final MethodHandle MATMUL_CREATE =
            status("dnnl_matmul_primitive_desc_create", LONG, LONG, LONG, LONG, LONG, LONG, LONG);
    private static final MethodHandle PD_QUERY = status("dnnl_primitive_desc_query", LONG, INT, INT, LONG);
    private static final MethodHandle PD_QUERY_DESC =
            DNNL.function("dnnl_primitive_desc_query_md", LONG, new MemoryLayout[] {LONG, INT, INT});
    private static final MethodHandle MEMORY_DESTROY = status("dnnl_memory_destroy", LONG);
    private static final MethodHandle EFFECTIVE_ISA =
            DNNL.function("dnnl_get_effective_cpu_isa", INT, new MemoryLayout[0]);
    private static final MethodHandle PD_DESTROY = status("dnnl_primitive_desc_destroy", LONG);
    private static final MethodHandle PRIMITIVE_CREATE = status("dnnl_primitive_create", LONG, LONG);
    private static final MethodHandle PRIMITIVE_EXECUTE = status("dnnl_primitive_execute", LONG, LONG, INT, LONG);

    private static final long ENGINE;
    private static final long STREAM;

    static {
        long out = NativeMemory.allocate(8);
        try {
            check("dnnl_engine_create", (int) ENGINE_CREATE.invokeExact(out, ENGINE_CPU, 0L));
            ENGINE = pointer(out);
            check("dnnl_stream_create", (int) STREAM_CREATE.invokeExact(out, ENGINE, STREAM_IN_ORDER));
            STREAM = pointer(out);
        } catch (Throwable e) {
            throw Native.failed("dnnl_engine_create", e);
        } finally {
            NativeMemory.free(out);
        }
    }

    private OneDnn() {}

    /// Makes oneDNN calls of this thread run on this thread alone. Every thread that creates or runs a primitive calls
    /// it first: libgomp would build a team of threads for each.
    static void singleThreaded() {
        try {
            SET_THREADS.invokeExact(1);
        } catch (Throwable e) {
            throw Native.failed("omp_set_num_threads", e);
        }
    }

    /// A memory descriptor of a matrix whose element (i, j) lies at i · rowStride + j · columnStride.
    static long matrix(DType dtype, long rows, long columns, long rowStride, long columnStride) {
        long arguments = NativeMemory.allocate(40);
        try {
            put(arguments, rows);
            put(arguments + 8, columns);
            put(arguments + 16, rowStride);
            put(arguments + 24, columnStride);
            int status = (int) DESC_CREATE.invokeExact(arguments + 32, 2, arguments, dataType(dtype), arguments + 16);
            check("dnnl_memory_desc_create_with_strides", status);
            return pointer(arguments + 32);
        } catch (Throwable e) {
            throw Native.failed("dnnl_memory_desc_create_with_strides", e);
        } finally {
            NativeMemory.free(arguments);
        }
    }

    /// A matrix product of these descriptors.
    ///
    /// @param sum whether the product adds to what is in `destination`
    /// @param addend a descriptor of what else is added
    static Product product(long source, long weights, long destination, boolean sum, @Nullable Long addend) {
        singleThreaded();
        long out = NativeMemory.allocate(16);
        try {
            check("dnnl_primitive_attr_create", (int) ATTR_CREATE.invokeExact(out));
            long attributes = pointer(out);
            check("dnnl_primitive_attr_set_scratchpad_mode", (int)
                    ATTR_SCRATCHPAD.invokeExact(attributes, SCRATCHPAD_USER));
            check("dnnl_primitive_attr_set_fpmath_mode", (int) ATTR_FPMATH.invokeExact(attributes, FPMATH_STRICT));
            check("dnnl_primitive_attr_set_deterministic", (int) ATTR_DETERMINISTIC.invokeExact(attributes, 1));
            check("dnnl_post_ops_create", (int) POST_OPS_CREATE.invokeExact(out));
            long postOps = pointer(out);
            if (sum) {
                check("dnnl_post_ops_append_sum", (int) POST_OPS_SUM.invokeExact(postOps, 1f, 0, 0));
            }
            if (addend != null) {
                int status = (int) POST_OPS_BINARY.invokeExact(postOps, BINARY_ADD, (long) addend);
                check("dnnl_post_ops_append_binary", status);
            }
            check("dnnl_primitive_attr_set_post_ops", (int) ATTR_POST_OPS.invokeExact(attributes, postOps));
            check("dnnl_matmul_primitive_desc_create", (int)
                    MATMUL_CREATE.invokeExact(out, ENGINE, source, weights, 0L, destination, attributes));
            long description = pointer(out);
            long scratch = (long) PD_QUERY_DESC.invokeExact(description, QUERY_SCRATCHPAD, 0);
            long scratchBytes = scratch == 0 ? 0 : (long) DESC_SIZE.invokeExact(scratch);
            check("dnnl_primitive_desc_query", (int) PD_QUERY.invokeExact(description, QUERY_IMPLEMENTATION, 0, out));
            String name = NativeMemory.ALL.asSlice(pointer(out)).getString(0);
            check("dnnl_primitive_create", (int) PRIMITIVE_CREATE.invokeExact(out, description));
            long primitive = pointer(out);
            // The primitive keeps its own reference to its description, and the scratchpad's descriptor lives there.
            check("dnnl_post_ops_destroy", (int) POST_OPS_DESTROY.invokeExact(postOps));
            check("dnnl_primitive_attr_destroy", (int) ATTR_DESTROY.invokeExact(attributes));
            if (scratchBytes == 0) {
                check("dnnl_primitive_desc_destroy", (int) PD_DESTROY.invokeExact(description));
            }
            return new Product(primitive, scratch, scratchBytes, name);
        } catch (Throwable e) {
            throw Native.failed("dnnl_matmul_primitive_desc_create", e);
        } finally {
            NativeMemory.free(out);
        }
    }

    /// @param scratch the descriptor of the scratchpad, valid where scratchBytes is not 0
    /// @param implementation oneDNN's name of what computes it
    record Product(long primitive, long scratch, long scratchBytes, String implementation) {}

    /// A memory object, whose address comes later.
    static long memory(long descriptor) {
        long out = NativeMemory.allocate(8);
        try {
            check("dnnl_memory_create", (int) MEMORY_CREATE.invokeExact(out, descriptor, ENGINE, 0L));
            return pointer(out);
        } catch (Throwable e) {
            throw Native.failed("dnnl_memory_create", e);
        } finally {
            NativeMemory.free(out);
        }
    }

    static void address(long memory, long address) {
        int status;
        try {
            status = (int) MEMORY_SET.invokeExact(memory, address);
        } catch (Throwable e) {
            throw Native.failed("dnnl_memory_set_data_handle", e);
        }
        check("dnnl_memory_set_data_handle", status);
    }

    static void destroyMemory(long memory) {
        try {
            check("dnnl_memory_destroy", (int) MEMORY_DESTROY.invokeExact(memory));
        } catch (Throwable e) {
            throw Native.failed("dnnl_memory_destroy", e);
        }
    }

    /// The best instruction set that oneDNN uses here, for reports.
    static String instructionSet() {
        int isa;
        try {
            isa = (int) EFFECTIVE_ISA.invokeExact();
        } catch (Throwable e) {
            throw Native.failed("dnnl_get_effective_cpu_isa", e);
        }
        // Sets of bits, each a superset of those it extends.
        if ((isa & AMX_BITS) == AMX_BITS) {
            return "amx";
        }
        if ((isa & AVX512_BF16_BITS) == AVX512_BF16_BITS) {
            return "avx512_bf16";
        }
        return (isa & AVX512_BITS) == AVX512_BITS ? "avx512" : "avx2 or less";
    }

    /// Runs a primitive; `arguments` is the address of `count` dnnl_exec_arg_t.
    static void execute(long primitive, int count, long arguments) {
        int status;
        try {
            status = (int) PRIMITIVE_EXECUTE.invokeExact(primitive, STREAM, count, arguments);
        } catch (Throwable e) {
            throw Native.failed("dnnl_primitive_execute", e);
        }
        check("dnnl_primitive_execute", status);
    }

    private static int dataType(DType dtype) {
        return switch (dtype) {
            case F16 -> 1;
            case BF16 -> 2;
            case F32 -> 3;
            case I32 -> 4;
        };
    }

    private static MethodHandle status(String function, MemoryLayout... arguments) {
        return DNNL.function(function, INT, arguments);
    }

    private static void check(String function, int status) {
        if (status != 0) {
            throw new NativeException(
                    function,
                    status,
                    switch (status) {
                        case 1 -> "out of memory";
                        case 2 -> "invalid arguments";
                        case 3 -> "not implemented";
                        case 5 -> "failed while running";
                        default -> "";
                    });
        }
    }

    private static long pointer(long address) {
        return NativeMemory.ALL.get(ValueLayout.JAVA_LONG, address);
    }

    private static void put(long address, long value) {
        NativeMemory.ALL.set(ValueLayout.JAVA_LONG, address, value);
    }
}
