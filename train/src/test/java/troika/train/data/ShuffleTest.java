package troika.train.data;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.stream.LongStream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.LongRange;

class ShuffleTest {
    @Property(tries = 200)
    void isAPermutation(@ForAll @LongRange(min = 1, max = 3000) long n, @ForAll long key) {
        long[] order =
                LongStream.range(0, n).map(i -> Shuffle.at(i, n, key)).sorted().toArray();
        assertThat(order).isEqualTo(LongStream.range(0, n).toArray());
    }

    @Property(tries = 50)
    void leavesFewNeighboursTogether(@ForAll long key) {
        int n = 10_000;
        long together = LongStream.range(1, n)
                .filter(i -> Math.abs(Shuffle.at(i, n, key) - Shuffle.at(i - 1, n, key)) == 1)
                .count();
        // Two are expected.
        assertThat(together).isLessThan(20);
    }
}
