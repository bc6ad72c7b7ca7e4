package troika.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.data.Index.atIndex;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Random;
import java.util.function.UnaryOperator;
import jdk.incubator.vector.FloatVector;
import org.junit.jupiter.api.Test;

final class VectorsTest {
    private static float[] apply(UnaryOperator<FloatVector> function, float... x) {
        float[] y = new float[x.length];
        float[] lanes = new float[Vectors.LANES];
        for (int i = 0; i < x.length; i += Vectors.LANES) {
            int count = Math.min(Vectors.LANES, x.length - i);
            System.arraycopy(x, i, lanes, 0, count);
            function.apply(FloatVector.fromArray(Vectors.F, lanes, 0)).intoArray(lanes, 0);
            System.arraycopy(lanes, 0, y, i, count);
        }
        return y;
    }

    @Test
    void expIsWithinTwoUnitsInTheLastPlace() {
        Random random = new Random(1);
        float[] x = new float[20_000];
        for (int i = 0; i < x.length; i++) {
            x[i] = i % 2 == 0 ? random.nextFloat(-87.3f, 88.3f) : random.nextFloat(-1, 1);
        }
        float[] y = apply(Vectors::exp, x);
        for (int i = 0; i < x.length; i++) {
            float expected = (float) Math.exp(x[i]);
            if (Float.isInfinite(expected)) {
                assertThat(y[i]).isInfinite();
            } else {
                assertThat((double) Math.abs(y[i] - expected))
                        .as("exp(%s)", x[i])
                        .isLessThanOrEqualTo(2.0 * Math.ulp(expected));
            }
        }
    }

    @Test
    void expHasItsLimits() {
        float[] y = apply(
                Vectors::exp,
                Float.NEGATIVE_INFINITY,
                -3e38f,
                -105,
                0,
                89,
                3e38f,
                Float.POSITIVE_INFINITY,
                Float.NaN,
                88.2f);
        assertThat(y)
                .startsWith(0, 0, 0, 1)
                .contains(Float.POSITIVE_INFINITY, atIndex(4))
                .contains(Float.POSITIVE_INFINITY, atIndex(5))
                .contains(Float.POSITIVE_INFINITY, atIndex(6));
        assertThat(y[7]).isNaN();
        assertThat(y[8]).isFinite();
    }

    @Test
    void sigmoidIsCloseAndHasItsLimits() {
        float[] x = {Float.NEGATIVE_INFINITY, -200, -80, -3, -1e-3f, 0, 2, 20, 200, Float.POSITIVE_INFINITY};
        float[] y = apply(Vectors::sigmoid, x);
        for (int i = 0; i < x.length; i++) {
            double expected = 1 / (1 + Math.exp(-x[i]));
            assertThat(Math.abs(y[i] - expected)).isLessThanOrEqualTo(4e-7 * expected + 2e-38);
        }
    }

    @Test
    void lanesAreSummedAndCompared() {
        float[] x = new float[Vectors.LANES];
        for (int i = 0; i < x.length; i++) {
            x[i] = 1 << i;
        }
        FloatVector v = FloatVector.fromArray(Vectors.F, x, 0);
        assertThat(Vectors.sum(v)).isEqualTo((1 << x.length) - 1);
        for (int i = 0; i < x.length; i++) {
            assertThat(Vectors.max(v.withLane(i, 1 << 20))).isEqualTo(1 << 20);
        }
    }

    @Test
    void everyBf16SurvivesLoadAndStore() {
        try (Arena arena = Arena.ofConfined()) {
            int n = 1 << 16;
            MemorySegment from = arena.allocate(2L * n, 64);
            MemorySegment to = arena.allocate(2L * n, 64);
            for (int i = 0; i < n; i++) {
                from.setAtIndex(ValueLayout.JAVA_SHORT, i, (short) i);
            }
            for (int i = 0; i < n; i += Vectors.LANES) {
                Vectors.store(
                        true, to.address(), i, Vectors.LANES, Vectors.load(true, from.address(), i, Vectors.LANES));
            }
            for (int i = 0; i < n; i++) {
                short bits = to.getAtIndex(ValueLayout.JAVA_SHORT, i);
                if (Float.isNaN(Vectors.get(true, from.address(), i))) {
                    assertThat(Vectors.get(true, to.address(), i)).isNaN();
                } else {
                    assertThat(bits).isEqualTo((short) i);
                }
            }
        }
    }
}
