package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class ProductTimerTest {
    /// Gives each candidate a time, with a slower first run, and counts runs.
    private static final class Card implements ProductTimer.Measure {
        private final float[] times;
        private final int[] runs;

        Card(float... times) {
            this.times = times;
            runs = new int[times.length];
        }

        @Override
        public float milliseconds(int candidate, int count) {
            boolean loaded = runs[candidate] > 0;
            runs[candidate] += count;
            return loaded ? times[candidate] : times[candidate] * 100;
        }
    }

    @Test
    void theFastestWinsWhereverItStands() {
        for (int i = 0; i < 5; i++) {
            float[] times = {1.2f, 1.1f, 1.4f, 1.3f, 1.5f};
            times[i] = 0.9f;
            assertThat(ProductTimer.fastest(5, new Card(times))).isEqualTo(new ProductTimer.Fastest(i, 0.9f));
        }
    }

    @Test
    void aHopelessCandidateRunsTwiceOnly() {
        Card card = new Card(1, 1.6f, 1.4f, 0.5f, 0.8f);
        assertThat(ProductTimer.fastest(5, card).candidate()).isEqualTo(3);
        assertThat(card.runs).containsExactly(7, 2, 7, 12, 2);
    }

    @Test
    void candidatesThatDoNotRunAreLeftOut() {
        assertThat(ProductTimer.fastest(3, new Card(Float.NaN, 2, Float.NaN)).candidate())
                .isEqualTo(1);
        assertThat(ProductTimer.fastest(2, new Card(Float.NaN, Float.NaN)).milliseconds())
                .isNaN();
    }

    @Test
    void closeCandidatesAreTimedAgainAndTheSecondTimesDecide() {
        // The first looks best while the card's clock is still high.
        int[] calls = new int[2];
        ProductTimer.Fastest fastest =
                ProductTimer.fastest(2, (candidate, runs) -> candidate == 1 ? 1.01f : calls[0]++ < 3 ? 1f : 1.05f);
        assertThat(fastest).isEqualTo(new ProductTimer.Fastest(1, 1.01f));
    }

    @Test
    void algorithmsThatTheHeuristicGivesTwiceAreTimedOnce() {
        var algorithms = new ArrayList<CublasLt.Algorithm>();
        ProductPlan.addNew(algorithms, List.of(algorithm(1), algorithm(2)));
        ProductPlan.addNew(algorithms, List.of(algorithm(2), algorithm(3)));
        assertThat(algorithms).extracting(CublasLt.Algorithm::workspace).containsExactly(1L, 2L, 3L);
    }

    private static CublasLt.Algorithm algorithm(int id) {
        byte[] bytes = new byte[CublasLt.ALGORITHM_BYTES];
        bytes[7] = (byte) id;
        return new CublasLt.Algorithm(bytes, id);
    }
}
