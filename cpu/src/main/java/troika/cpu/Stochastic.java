package troika.cpu;

import static troika.cpu.Vectors.LANES;
import static troika.ffi.NativeMemory.ALL;

import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.ShortVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;

/// Stochastic rounding to BF16 with counted random bits: see [troika.tensor.Kernels#adamw].
final class Stochastic {
    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final VectorSpecies<Integer> I = VectorSpecies.of(int.class, Vectors.F.vectorShape());
    private static final VectorSpecies<Short> S =
            VectorSpecies.of(short.class, VectorShape.forBitSize(Vectors.F.vectorBitSize() / 2));
    private static final IntVector IOTA = IntVector.zero(I).addIndex(1);
    private static final int FACTOR_1 = 0x7feb352d;
    private static final int FACTOR_2 = 0x846ca68b;
    private static final IntVector FACTORS_1 = IntVector.broadcast(I, FACTOR_1);
    private static final IntVector FACTORS_2 = IntVector.broadcast(I, FACTOR_2);
    private static final IntVector EXPONENT = IntVector.broadcast(I, 0x7f800000);
    private static final IntVector LOW_HALF = IntVector.broadcast(I, 0xffff);

    private Stochastic() {}

    /// The random bits of `n` elements from `first` on; `bits` has room for whole vectors.
    static void fill(int seed, long first, int n, int[] bits) {
        for (int i = 0; i < n; i += LANES) {
            int low = (int) (first + i);
            int high = (int) ((first + i) >>> 32);
            if (Integer.compareUnsigned(low, -LANES) <= 0) {
                lanes(seed, low, high).intoArray(bits, i);
            } else {
                // The lower half wraps around within this vector.
                for (int lane = 0; lane < LANES; lane++) {
                    long element = first + i + lane;
                    bits[i + lane] = mix(mix((int) element ^ seed) + (int) (element >>> 32));
                }
            }
        }
    }

    private static IntVector lanes(int seed, int low, int high) {
        IntVector x = IOTA.lanewise(VectorOperators.ADD, low).lanewise(VectorOperators.XOR, seed);
        return mix(mix(x).lanewise(VectorOperators.ADD, high));
    }

    // Chris Wellons' lowbias32.
    private static IntVector mix(IntVector x) {
        IntVector y = x.lanewise(VectorOperators.XOR, x.lanewise(VectorOperators.LSHR, 16))
                .lanewise(VectorOperators.MUL, FACTORS_1);
        y = y.lanewise(VectorOperators.XOR, y.lanewise(VectorOperators.LSHR, 15))
                .lanewise(VectorOperators.MUL, FACTORS_2);
        return y.lanewise(VectorOperators.XOR, y.lanewise(VectorOperators.LSHR, 16));
    }

    private static int mix(int x) {
        int y = (x ^ x >>> 16) * FACTOR_1;
        y = (y ^ y >>> 15) * FACTOR_2;
        return y ^ y >>> 16;
    }

    /// Stores `n` floats as BF16, rounded up with the probability that the upper or the lower halves of `bits` give.
    static void round(float[] from, int[] bits, boolean upper, long to, int n) {
        int i = 0;
        for (; i <= n - LANES; i += LANES) {
            rounded(from, bits, upper, i).intoMemorySegment(ALL, to + 2L * i, ORDER);
        }
        if (i < n) {
            rounded(from, bits, upper, i).intoMemorySegment(ALL, to + 2L * i, ORDER, S.indexInRange(0, n - i));
        }
    }

    private static ShortVector rounded(float[] from, int[] bits, boolean upper, int i) {
        IntVector x = FloatVector.fromArray(Vectors.F, from, i).reinterpretAsInts();
        IntVector random = IntVector.fromArray(I, bits, i);
        IntVector added =
                upper ? random.lanewise(VectorOperators.LSHR, 16) : random.lanewise(VectorOperators.AND, LOW_HALF);
        VectorMask<Integer> finite = x.lanewise(VectorOperators.AND, EXPONENT).compare(VectorOperators.LT, EXPONENT);
        IntVector sum = x.blend(x.lanewise(VectorOperators.ADD, added), finite);
        return (ShortVector) sum.lanewise(VectorOperators.LSHR, 16).convertShape(VectorOperators.I2S, S, 0);
    }
}
