package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class RoutesTest {
    private static final double HOST_RATE = 20e9;

    /// @param direct rates of pairs that reach each other, by "0-1"
    private static List<Routes> candidates(int ranks, Map<String, Double> direct) {
        return Routes.candidates(ranks, (a, b) -> {
            assertThat(a).isLessThan(b);
            Double rate = direct.get(a + "-" + b);
            return CardPath.of(rate != null, rate != null, rate == null ? 0 : rate, HOST_RATE);
        });
    }

    private static List<String> texts(List<Routes> candidates) {
        return candidates.stream().map(Routes::toString).toList();
    }

    @Test
    void cardsThatCannotReachEachOtherHaveNothingToChoose() {
        assertThat(texts(candidates(3, Map.of()))).containsExactly("through pinned host memory");
    }

    @Test
    void cardsThatAllReachEachOtherTryTheHostToo() {
        assertThat(texts(candidates(3, Map.of("0-1", 50e9, "0-2", 50e9, "1-2", 50e9))))
                .containsExactly("directly", "through pinned host memory");
    }

    /// Card 0 is linked to both others, and they are not to each other.
    @Test
    void aStarTriesItsHubsCard() {
        List<Routes> candidates = candidates(3, Map.of("0-1", 50e9, "0-2", 40e9));
        assertThat(texts(candidates))
                .containsExactly(
                        "directly (ranks 0-1, 0-2), through pinned host memory (ranks 1-2)",
                        "directly (ranks 0-1, 0-2), over rank 0's card (ranks 1-2)",
                        "through pinned host memory");
        assertThat(candidates.get(1).between(2, 1)).isEqualTo(Route.over(0));
        assertThat(candidates.get(1).anyDirect()).isTrue();
        assertThat(candidates.get(1).allDirect()).isFalse();
        assertThat(candidates.get(2).anyDirect()).isFalse();
    }

    /// The hub's slower link is slower than the host; so is one direct pair.
    @Test
    void slowLinksAreLeftOutWhereTheHostIsFaster() {
        assertThat(texts(candidates(3, Map.of("0-1", 50e9, "0-2", 10e9))))
                .containsExactly(
                        "directly (ranks 0-1, 0-2), through pinned host memory (ranks 1-2)",
                        "directly (ranks 0-1, 0-2), over rank 0's card (ranks 1-2)",
                        "directly (ranks 0-1), through pinned host memory (ranks 0-2, 1-2)",
                        "through pinned host memory");
    }

    /// Of two cards between, the one with the better of their slower links.
    @Test
    void theFasterHopIsTaken() {
        Map<String, Double> square = Map.of("0-1", 60e9, "1-2", 30e9, "2-3", 50e9, "0-3", 40e9);
        Routes hops = candidates(4, square).get(1);
        assertThat(hops.between(0, 2)).isEqualTo(Route.over(3));
        assertThat(hops.between(1, 3)).isEqualTo(Route.over(0));
        assertThat(hops.between(0, 1)).isEqualTo(Route.DIRECT);
    }

    /// Where a detour is faster than the pair's own link, as beside a link of few lanes.
    @Test
    void aDetourMayBeFasterThanADirectPath() {
        Routes alone =
                candidates(3, Map.of("0-1", 50e9, "0-2", 50e9, "1-2", 5e9)).get(1);
        assertThat(alone.toString()).isEqualTo("directly (ranks 0-1, 0-2), over rank 0's card (ranks 1-2)");
    }

    @Test
    void ranksThatShareACardStayDirect() {
        CardPath shared = new CardPath(true, true, Double.POSITIVE_INFINITY, 0, "one card");
        CardPath far = CardPath.of(false, false, 0, HOST_RATE);
        List<Routes> candidates = Routes.candidates(3, (a, b) -> b == 1 ? shared : far);
        assertThat(texts(candidates))
                .containsExactly("directly (ranks 0-1), through pinned host memory (ranks 0-2, 1-2)");
        assertThat(texts(Routes.candidates(3, (_, _) -> shared))).containsExactly("directly");
    }
}
