package troika.cpu;

import java.lang.foreign.ValueLayout;
import java.util.concurrent.ConcurrentHashMap;
import troika.ffi.NativeMemory;
import troika.tensor.DType;

/// A matrix product c (+)= a · b of oneDNN for given sizes and strides, at any addresses: immutable, one for each key
/// in the process, shared by all threads. A [Call] runs it.
final class MatMul {
    /// The scratch memory that a product may need at most: what [CpuStream#call] gives it.
    static final long SCRATCH_BYTES = 2L << 20;

    private static final ConcurrentHashMap<Key, MatMul> CACHE = new ConcurrentHashMap<>();

    /// What is added to the product.
    enum Addend {
        NONE,
        /// What is in c already.
        C,
        /// Another matrix of c's dtype and strides.
        OTHER
    }

    /// A matrix in memory.
    ///
    /// @param stride elements from one row to the next; of the stored rows, where it is transposed
    /// @param transposed whether memory holds the columns as its rows
    record Layout(DType dtype, long stride, boolean transposed) {
        static Layout rows(DType dtype, long stride) {
            return new Layout(dtype, stride, false);
        }

        static Layout transposed(DType dtype, long stride) {
            return new Layout(dtype, stride, true);
        }

        private long descriptor(long rows, long columns) {
            return transposed
                    ? OneDnn.matrix(dtype, rows, columns, 1, stride)
                    : OneDnn.matrix(dtype, rows, columns, stride, 1);
        }
    }

    /// @param m rows of a and c
    /// @param n columns of b and c
    /// @param k columns of a and rows of b
    record Key(long m, long n, long k, Layout a, Layout b, Layout c, Addend addend) {}

    final Key key;
    private final long aDescriptor;
    private final long bDescriptor;
    private final long cDescriptor;
    private final OneDnn.Product product;

    private MatMul(Key key) {
        this.key = key;
        aDescriptor = key.a.descriptor(key.m, key.k);
        bDescriptor = key.b.descriptor(key.k, key.n);
        cDescriptor = key.c.descriptor(key.m, key.n);
        product = OneDnn.product(
                aDescriptor,
                bDescriptor,
                cDescriptor,
                key.addend == Addend.C,
                key.addend == Addend.OTHER ? cDescriptor : null);
    }

    static MatMul of(Key key) {
        return CACHE.computeIfAbsent(key, MatMul::new);
    }

    /// The bytes of scratch memory that a call needs.
    long scratchBytes() {
        return product.scratchBytes();
    }

    /// What oneDNN calls its implementation, for reports.
    String implementation() {
        return product.implementation();
    }

    /// What one thread needs to run a product: memory objects and arguments. Not to be used by two threads at a time.
    static final class Call implements AutoCloseable {
        private static final int ARGUMENT_BYTES = 16;

        private final long primitive;
        private final long arguments;
        private final int count;
        private final long a;
        private final long b;
        private final long c;
        private final long other;
        private final long scratch;

        /// @param scratch the address of at least [MatMul#scratchBytes] bytes
        Call(MatMul product, long scratch) {
            primitive = product.product.primitive();
            arguments = NativeMemory.allocate(5 * ARGUMENT_BYTES);
            a = OneDnn.memory(product.aDescriptor);
            b = OneDnn.memory(product.bDescriptor);
            c = OneDnn.memory(product.cDescriptor);
            int n = 0;
            put(n++, OneDnn.ARG_SRC, a);
            put(n++, OneDnn.ARG_WEIGHTS, b);
            put(n++, OneDnn.ARG_DST, c);
            if (product.scratchBytes() != 0) {
                this.scratch = OneDnn.memory(product.product.scratch());
                OneDnn.address(this.scratch, scratch);
                put(n++, OneDnn.ARG_SCRATCHPAD, this.scratch);
            } else {
                this.scratch = 0;
            }
            if (product.key.addend == Addend.OTHER) {
                other = OneDnn.memory(product.cDescriptor);
                put(n++, OneDnn.ARG_POST_OP_0_SRC_1, other);
            } else {
                other = 0;
            }
            count = n;
        }

        private void put(int index, int argument, long memory) {
            long at = arguments + (long) index * ARGUMENT_BYTES;
            NativeMemory.ALL.set(ValueLayout.JAVA_INT, at, argument);
            NativeMemory.ALL.set(ValueLayout.JAVA_LONG, at + 8, memory);
        }

        /// c (+)= a · b, at these addresses.
        void run(long a, long b, long c) {
            OneDnn.address(this.a, a);
            OneDnn.address(this.b, b);
            OneDnn.address(this.c, c);
            OneDnn.execute(primitive, count, arguments);
        }

        /// c = a · b + addend, at these addresses.
        void run(long a, long b, long c, long addend) {
            OneDnn.address(other, addend);
            run(a, b, c);
        }

        @Override
        public void close() {
            for (long memory : new long[] {a, b, c, other, scratch}) {
                if (memory != 0) {
                    OneDnn.destroyMemory(memory);
                }
            }
            NativeMemory.free(arguments);
        }
    }
}
