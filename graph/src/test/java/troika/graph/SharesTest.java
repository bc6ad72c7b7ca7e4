package troika.graph;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.LongRange;
import org.junit.jupiter.api.Test;

class SharesTest {
    @Property
    void partsFollowOneAnotherAndAreEven(
            @ForAll @LongRange(max = 1L << 40) long units, @ForAll @IntRange(min = 1, max = 64) int parts) {
        Shares shares = new Shares(units, parts);
        assertThat(shares.start(0)).isZero();
        assertThat(shares.start(parts)).isEqualTo(units);
        for (int i = 0; i < parts; i++) {
            assertThat(shares.size(i)).isBetween(units / parts, Math.ceilDiv(units, (long) parts));
            assertThat(shares.start(i) + shares.size(i)).isEqualTo(shares.start(i + 1));
            if (i > 0) {
                assertThat(shares.size(i)).isLessThanOrEqualTo(shares.size(i - 1));
            }
        }
    }

    @Test
    void sixteenSequencesOnThreeRanks() {
        Shares shares = new Shares(16, 3);
        assertThat(shares.size(0)).isEqualTo(6);
        assertThat(shares.size(1)).isEqualTo(5);
        assertThat(shares.size(2)).isEqualTo(5);
    }

    @Test
    void whatCannotBeSplitIsRefused() {
        assertThatThrownBy(() -> new Shares(-1, 2)).hasMessageContaining("-1");
        assertThatThrownBy(() -> new Shares(1, 0)).hasMessageContaining("over 0");
    }
}
