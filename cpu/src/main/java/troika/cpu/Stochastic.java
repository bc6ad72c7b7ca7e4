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
    private static final int EXPONENT = 0x7f800000;

    private Stochastic() {}

    /// The random bits of the elements from `first` on.
    static IntVector bits(int seed, long first) {
        int start = (int) first;
        IntVector low = IOTA.add(start);
        VectorMask<Integer> wrapped = low.compare(VectorOperators.ULT, start);
        IntVector high = IntVector.broadcast(I, (int) (first >>> 32)).add(1, wrapped);
        return mix(mix(low.lanewise(VectorOperators.XOR, seed)).add(high));
    }

    // Chris Wellons' lowbias32.
    private static IntVector mix(IntVector x) {
        IntVector y = x.lanewise(VectorOperators.XOR, x.lanewise(VectorOperators.LSHR, 16))
                .mul(0x7feb352d);
        y = y.lanewise(VectorOperators.XOR, y.lanewise(VectorOperators.LSHR, 15))
                .mul(0x846ca68b);
        return y.lanewise(VectorOperators.XOR, y.lanewise(VectorOperators.LSHR, 16));
    }

    /// Stores element `i` and those that follow, rounded up with the probability that `random`, 16 bits a lane, gives.
    static void store(long address, int i, int count, FloatVector v, IntVector random) {
        IntVector bits = v.reinterpretAsInts();
        VectorMask<Integer> finite =
                bits.lanewise(VectorOperators.AND, EXPONENT).compare(VectorOperators.NE, EXPONENT);
        IntVector result = bits.add(random, finite).lanewise(VectorOperators.LSHR, 16);
        ShortVector shorts = (ShortVector) result.convertShape(VectorOperators.I2S, S, 0);
        if (count == LANES) {
            shorts.intoMemorySegment(ALL, address + 2L * i, ORDER);
        } else {
            shorts.intoMemorySegment(ALL, address + 2L * i, ORDER, S.indexInRange(0, count));
        }
    }
}
