package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.data.Offset.offset;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.graph.Range;
import troika.plan.Layout.Place;
import troika.plan.Layout.Stage;
import troika.tensor.UserException;

class LayoutTest {
    /// Stages of any sizes over shuffled ranks.
    @Provide
    Arbitrary<Layout> layouts() {
        Arbitrary<List<int[]>> sizes = Arbitraries.integers()
                .between(1, 4)
                .list()
                .ofSize(2)
                .map(pair -> new int[] {pair.get(0), pair.get(1)})
                .list()
                .ofMinSize(1)
                .ofMaxSize(4);
        return sizes.flatMap(stages -> Arbitraries.longs().map(seed -> layout(stages, seed)));
    }

    private static Layout layout(List<int[]> sizes, long seed) {
        int ranks = sizes.stream().mapToInt(size -> size[0] * size[1]).sum();
        List<Integer> shuffled =
                new ArrayList<>(IntStream.range(0, ranks).boxed().toList());
        Random random = new Random(seed);
        Collections.shuffle(shuffled, random);
        List<Stage> stages = new ArrayList<>();
        int next = 0;
        for (int[] size : sizes) {
            int end = next + size[0] * size[1];
            stages.add(new Stage(shuffled.subList(next, end), size[0], size[1]));
            next = end;
        }
        return new Layout(
                stages,
                IntStream.range(0, ranks)
                        .mapToObj(_ -> 0.1 + random.nextDouble())
                        .toList());
    }

    @Property
    void textIsReadBack(@ForAll("layouts") Layout layout) {
        assertThat(Layout.parse(layout.toString()).withShares(layout.shares())).isEqualTo(layout);
    }

    @Property
    void placesAndGroupsAgree(@ForAll("layouts") Layout layout) {
        for (int rank = 0; rank < layout.worldSize(); rank++) {
            Place place = layout.place(rank);
            Stage stage = layout.stages().get(place.stage());
            assertThat(stage.ranks().get(place.replica() * stage.tensorParallel() + place.tensor()))
                    .isEqualTo(rank);
            List<Integer> tensor = layout.tensorGroup(rank);
            List<Integer> data = layout.dataGroup(rank);
            assertThat(tensor).hasSize(stage.tensorParallel());
            assertThat(tensor.get(place.tensor())).isEqualTo(rank);
            assertThat(data).hasSize(stage.dataParallel());
            assertThat(data.get(place.replica())).isEqualTo(rank);
            for (int i = 0; i < tensor.size(); i++) {
                assertThat(layout.place(tensor.get(i))).isEqualTo(new Place(place.stage(), place.replica(), i));
            }
            for (int i = 0; i < data.size(); i++) {
                assertThat(layout.place(data.get(i))).isEqualTo(new Place(place.stage(), i, place.tensor()));
            }
        }
    }

    @Property
    void everyStageRunsWholeRoundsOfMicrobatches(@ForAll("layouts") Layout layout) {
        int unit = layout.microbatchUnit();
        assertThat(layout.stages()).allMatch(stage -> unit % stage.dataParallel() == 0);
        // Nothing smaller will do.
        for (int smaller = 1; smaller < unit; smaller++) {
            int fewer = smaller;
            assertThat(layout.stages()).anyMatch(stage -> fewer % stage.dataParallel() != 0);
        }
    }

    @Property
    void everyLayerIsHeldOnceAndInProportion(@ForAll("layouts") Layout layout) {
        int stages = layout.stages().size();
        for (int layers = stages; layers < 40; layers += 7) {
            List<Range> held = layout.layers(layers, 1, 0);
            assertThat(held).hasSize(stages);
            long next = 0;
            double total = layout.shares().stream().mapToDouble(d -> d).sum();
            for (int stage = 0; stage < stages; stage++) {
                Range range = held.get(stage);
                assertThat(range.start()).isEqualTo(next);
                assertThat(range.size()).isPositive();
                next = range.end();
                // A layer taken for stages that would have none may make one more than rounding does.
                double exact = layers * layout.weight(stage) / total;
                assertThat((double) range.size()).isBetween(exact - stages, exact + stages);
            }
            assertThat(next).isEqualTo(layers);
        }
    }

    @Property
    void aStagesWeightIsItsReplicas(@ForAll("layouts") Layout layout) {
        for (int stage = 0; stage < layout.stages().size(); stage++) {
            double sum = 0;
            for (int replica = 0; replica < layout.stages().get(stage).dataParallel(); replica++) {
                sum += layout.weight(stage, replica);
            }
            assertThat(sum).isCloseTo(layout.weight(stage), offset(1e-9));
        }
    }

    @Test
    void gridsNumberStagesFirstAndTensorRanksLast() {
        Layout grid = Layout.grid(2, 3, 2);
        assertThat(grid).hasToString("0-5:dp2tp3 | 6-11:dp2tp3");
        assertThat(grid.place(10)).isEqualTo(new Place(1, 1, 1));
        assertThat(grid.tensorGroup(10)).containsExactly(9, 10, 11);
        assertThat(grid.dataGroup(10)).containsExactly(7, 10);
        assertThat(grid.microbatchUnit()).isEqualTo(2);
        assertThat(Layout.dataParallel(3)).hasToString("0-2:dp3");
        assertThat(Layout.dataParallel(1)).hasToString("0");
    }

    @Test
    void threeCardsShareLayersTwoToOne() {
        Layout layout = Layout.parse("0,1:dp2 | 2");
        assertThat(layout.layers(30, 1, 0)).containsExactly(new Range(0, 20), new Range(20, 30));
        assertThat(layout.microbatchUnit()).isEqualTo(2);
        Layout hybrid = Layout.parse("0,1:tp2|2").withShares(List.of(1.0, 1.0, 0.5));
        assertThat(hybrid.layers(10, 1, 0)).containsExactly(new Range(0, 8), new Range(8, 10));
        assertThat(hybrid.microbatchUnit()).isEqualTo(1);
        assertThat(hybrid.tensorGroup(1)).containsExactly(0, 1);
        assertThat(hybrid.dataGroup(1)).containsExactly(1);
    }

    /// DeepSeek-Coder 1.3B's head counts as 1.3 of its layers; one that outweighs a stage leaves it a layer.
    @Test
    void theHeadCountsAsLayersOfTheLastStage() {
        Layout two = Layout.grid(1, 1, 2);
        assertThat(two.layers(24, 1, 1.3)).containsExactly(new Range(0, 13), new Range(13, 24));
        assertThat(two.layers(24, 1, 0.4)).containsExactly(new Range(0, 12), new Range(12, 24));
        assertThat(two.layers(4, 1, 9)).containsExactly(new Range(0, 3), new Range(3, 4));
        assertThat(Layout.parse("0,1:dp2 | 2").layers(48, 1, 1.02))
                .containsExactly(new Range(0, 33), new Range(33, 48));
        assertThat(two.layers(8, 2, 1.5).getLast()).isEqualTo(new Range(7, 8));
    }

    @Test
    void chunksTakeTurns() {
        assertThat(Layout.grid(1, 1, 2).layers(7, 2, 0))
                .containsExactly(new Range(0, 2), new Range(2, 4), new Range(4, 6), new Range(6, 7));
    }

    @ParameterizedTest
    @CsvSource(delimiter = ';', textBlock = """
            0-3:dp2tp2; 0-3:dp2tp2
            0 - 3 : TP2; 0-3:dp2tp2
            0,1 | 2; 0,1:dp2 | 2
            2,1,0; 2,1,0:dp3
            0;0
            """)
    void readsText(String text, String means) {
        assertThat(Layout.parse(text)).hasToString(means);
    }

    @ParameterizedTest
    @CsvSource(delimiter = ';', quoteCharacter = '`', textBlock = """
            0,0; uses rank 0 twice
            0,1 | 1,2; rank
            0,2; number them from 0 to 1
            1; number them from 0 to 0
            0-2:tp2; "0-2:tp2" of the layout "0-2:tp2" has 3 ranks, which tp2 does not divide into
            0-2:dp2; write dp and tp whose product is 3, such as :dp3 or :tp3
            0-2:dp0; whose product is 3
            0-2:tp0; whose product is 3
            0,1:pp2; is not understood
            0,1:; is not understood
            0 |; is not understood
            x; such as "0,1:dp2 | 2"
            0,,1; is not understood
            1-0; give the lower rank first
            0-999999999; at most 1024 ranks
            0-1023 | 1024; limit of 1024
            """)
    void refusesImpossibleText(String text, String says) {
        assertRefused(() -> Layout.parse(text), says);
    }

    @Test
    void refusesWhatDoesNotFit() {
        assertRefused(() -> Layout.parse(""), "is not understood");
        assertRefused(() -> new Layout(List.of()), "at least one stage");
        assertRefused(() -> new Stage(List.of(0, 1, 2), 2, 2), "3 ranks cannot be dp2tp2");
        assertRefused(() -> Layout.grid(0, 1, 1), "at least 1");
        assertRefused(() -> Layout.grid(1 << 16, 1 << 16, 1), "at most 1024");
        Layout three = Layout.dataParallel(3);
        assertRefused(
                () -> three.withShares(List.of(1.0, 1.0)),
                "2 shares for 3 ranks: give one for each rank, such as" + " --shares 1,1,1");
        for (double share : new double[] {0, -1, Double.NaN, Double.POSITIVE_INFINITY}) {
            assertRefused(() -> three.withShares(List.of(1.0, 1.0, share)), "must be above 0");
        }
        assertRefused(() -> Layout.grid(1, 1, 3).layers(2, 1, 0), "the model has 2: use at most 2 stages");
        assertRefused(
                () -> Layout.grid(1, 1, 2).layers(3, 2, 0),
                "(2 stages × 2 chunks), one each at least, and the" + " model has 3: use at most 1 chunk");
        assertRefused(() -> Layout.parse("0,1:dp2 | 2").layers(12, 2, 0), "use one chunk a stage");
    }

    private static void assertRefused(Runnable action, String says) {
        assertThatThrownBy(action::run)
                .isInstanceOf(UserException.class)
                .hasMessageContaining(says)
                .extracting(Throwable::getMessage)
                .asString()
                .endsWith(".")
                .doesNotContain("\n");
    }
}
