package troika.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Random;
import java.util.stream.IntStream;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.graph.Model;
import troika.graph.Op;
import troika.graph.Parameter;
import troika.graph.TensorParallel;
import troika.graph.Trace;
import troika.graph.TracedBlock;
import troika.tensor.DType;
import troika.tensor.Shape;
import troika.tensor.UserException;

class TensorParallelTest {
    static final Offset<Double> TOLERANCE = Offset.offset(1e-9);
    private static final int HEAD = 4;
    private static final int WORDS = 37;
    private static final int LAYERS = 2;

    private static ModelConfig config(int heads, int keyValueHeads, int columns, int words, boolean tied) {
        return new ModelConfig(
                words,
                12,
                columns,
                LAYERS,
                heads,
                keyValueHeads,
                HEAD,
                64,
                1e-6,
                10000,
                1,
                tied,
                OptionalInt.empty(),
                OptionalInt.empty(),
                "float32");
    }

    private static List<Model> models(ModelConfig config, List<Double> weights, boolean sequence) {
        int ranks = weights.size();
        return IntStream.range(0, ranks)
                .mapToObj(i -> DeepSeekLlm.of(config, 64, new TensorParallel(ranks, i, weights, sequence)))
                .toList();
    }

    private static Trace.Settings settings(Trace.Mode mode, int batch, int sequence, boolean rebuild) {
        // Logits of 64 rows at a time on each of 3 ranks.
        return new Trace.Settings(mode, DType.F32, batch, sequence, true, rebuild, 64 * WORDS / 3);
    }

    private static double[] normal(Random random, long size, double deviation, double mean) {
        return random.doubles(size)
                .map(_ -> mean + deviation * random.nextGaussian())
                .toArray();
    }

    private static Map<String, double[]> weights(ModelConfig config) {
        Random random = new Random(1);
        Map<String, double[]> weights = new HashMap<>();
        for (Parameter parameter : Interpreter.parameters(DeepSeekLlm.of(config, 64))) {
            double mean = parameter.decayed() ? 0 : 1;
            weights.put(parameter.name(), normal(random, parameter.elements(), 0.4, mean));
        }
        return weights;
    }

    /// Sequences of documents of 3 tokens each, every fifth token without a target.
    private static Map<String, double[]> inputs(ModelConfig config, int tokens, int sequence) {
        Random random = new Random(2);
        double[] words =
                random.doubles(tokens).map(x -> (int) (x * config.vocabSize())).toArray();
        double[] labels =
                random.doubles(tokens).map(x -> (int) (x * config.vocabSize())).toArray();
        for (int t = 0; t < tokens; t += 5) {
            labels[t] = -1;
        }
        double[] positions =
                IntStream.range(0, tokens).mapToDouble(t -> t % sequence % 3).toArray();
        return Map.of(
                "tokens", words,
                "labels", labels,
                "positions", positions,
                "scale", new double[] {0.3},
                "loss", new double[1]);
    }

    private static Interpreter run(ModelConfig config, List<Double> shares, boolean sequence, Trace.Settings settings) {
        Map<String, double[]> inputs = inputs(config, settings.batch() * settings.sequence(), settings.sequence());
        Interpreter interpreter = new Interpreter(models(config, shares, sequence), weights(config), inputs);
        interpreter.run(settings);
        return interpreter;
    }

    private static double loss(Interpreter.Rank rank) {
        return rank.globals().getOrDefault("loss", new double[0])[0];
    }

    private static void trainsAsOneRank(
            ModelConfig config, List<Double> shares, boolean sequence, int batch, int length, boolean rebuild) {
        Trace.Settings settings = settings(Trace.Mode.TRAIN, batch, length, rebuild);
        Interpreter one = run(config, List.of(1.0), false, settings(Trace.Mode.TRAIN, batch, length, false));
        Interpreter several = run(config, shares, sequence, settings);
        double loss = loss(one.ranks().getFirst());
        assertThat(loss).isFinite().isPositive();
        assertThat(several.ranks()).allSatisfy(rank -> assertThat(loss(rank)).isCloseTo(loss, TOLERANCE));
        Map<String, double[]> expected = one.gradients();
        Map<String, double[]> actual = several.gradients();
        assertThat(actual).containsOnlyKeys(expected.keySet());
        expected.forEach((name, gradient) -> {
            double[] theirs = actual.getOrDefault(name, new double[0]);
            double largest = Arrays.stream(gradient).map(Math::abs).max().orElse(0);
            double difference = IntStream.range(0, gradient.length)
                    .mapToDouble(i -> Math.abs(gradient[i] - theirs[i]))
                    .max()
                    .orElseThrow();
            assertThat(largest).as(name).isFinite().isGreaterThan(1e-3);
            assertThat(difference).as(name).isLessThan(TOLERANCE.value);
        });
    }

    @ParameterizedTest
    @CsvSource({
        "2, 4, 2, 48, false", // ranks, heads, key-value heads, columns, tied
        "3, 4, 2, 48, false",
        "3, 5, 5, 50, false",
        "3, 5, 1, 47, true",
        "4, 6, 3, 48, false",
        "7, 7, 1, 11, true",
        "1, 4, 2, 48, false"
    })
    void severalRanksTrainAsOneDoes(int ranks, int heads, int keyValueHeads, int columns, boolean tied) {
        ModelConfig config = config(heads, keyValueHeads, columns, WORDS, tied);
        List<Double> even = Collections.nCopies(ranks, 1.0);
        for (boolean sequence : new boolean[] {false, true}) {
            for (boolean rebuild : new boolean[] {false, true}) {
                trainsAsOneRank(config, even, sequence, 2, 5, rebuild);
            }
        }
    }

    @Test
    void ranksTrainInProportionToTheirWeights() {
        trainsAsOneRank(config(8, 4, 48, WORDS, false), List.of(1.0, 1.0, 0.3), true, 2, 5, false);
        trainsAsOneRank(config(8, 2, 48, WORDS, false), List.of(0.3, 1.0, 0.6), false, 2, 5, true);
    }

    @Test
    void theLossIsComputedInChunksOnAllRanksAlike() {
        trainsAsOneRank(config(4, 2, 48, WORDS, false), List.of(1.0, 0.2, 1.0), true, 2, 40, true);
    }

    @Test
    void someRanksHaveNoTokens() {
        trainsAsOneRank(config(4, 2, 48, WORDS, false), List.of(1.0, 1.0, 1.0, 1.0), true, 1, 3, true);
    }

    @Test
    void evaluationAndDecodingGiveWhatOneRankGives() {
        ModelConfig config = config(5, 1, 48, WORDS, true);
        List<Double> three = Collections.nCopies(3, 1.0);
        for (boolean sequence : new boolean[] {false, true}) {
            Trace.Settings evaluation = settings(Trace.Mode.EVALUATE, 2, 5, false);
            double loss =
                    loss(run(config, List.of(1.0), false, evaluation).ranks().getFirst());
            assertThat(run(config, three, sequence, evaluation).ranks())
                    .allSatisfy(rank -> assertThat(loss(rank)).isCloseTo(loss, TOLERANCE));

            Trace.Settings decoding = settings(Trace.Mode.DECODE, 1, 1, false);
            Map<String, double[]> inputs = inputs(config, 1, 1);
            double[] logits = new Interpreter(models(config, List.of(1.0), false), weights(config), inputs)
                    .run(decoding)
                    .getFirst();
            assertThat(logits).hasSize(WORDS);
            assertThat(new Interpreter(models(config, three, sequence), weights(config), inputs).run(decoding))
                    .allSatisfy(theirs -> assertThat(theirs).containsExactly(logits, TOLERANCE));
        }
    }

    /// A model and the weights of its ranks.
    record Split(ModelConfig config, List<Double> weights, boolean sequence) {}

    @Provide
    Arbitrary<Split> splits() {
        Arbitrary<List<Double>> weights =
                Arbitraries.doubles().between(0.1, 2).list().ofMinSize(1).ofMaxSize(7);
        return Combinators.combine(
                        weights,
                        Arbitraries.integers().between(1, 8),
                        Arbitraries.integers().between(1, 8),
                        Arbitraries.integers().between(7, 12000),
                        Arbitraries.integers().between(7, 60000),
                        Arbitraries.of(true, false))
                .as((w, keyValueHeads, group, columns, words, flag) ->
                        new Split(config(keyValueHeads * group, keyValueHeads, columns, words, flag), w, flag))
                .filter(split -> split.weights().size() <= split.config().heads());
    }

    @Property(tries = 60)
    void portionsTileEveryWeight(@ForAll("splits") Split split) {
        List<Model> models = models(split.config(), split.weights(), split.sequence());
        for (Parameter whole : Interpreter.parameters(DeepSeekLlm.of(split.config(), 64))) {
            assertThat(whole.copies()).isEmpty();
            assertThat(whole.shape()).isEqualTo(whole.portion().whole());
            int rows = (int) whole.shape().size(0);
            int columns = (int) whole.portion().columns().size();
            // How often each row's and each column's elements are held and counted; rows or columns are split, not
            // both.
            int[] heldRows = new int[rows];
            int[] countedRows = new int[rows];
            int[] heldColumns = new int[columns];
            for (Model model : models) {
                Parameter parameter = Interpreter.parameters(model).stream()
                        .filter(p -> p.name().equals(whole.name()))
                        .findFirst()
                        .orElseThrow();
                assertThat(parameter.portion().whole()).isEqualTo(whole.shape());
                assertThat(parameter.elements()).isPositive();
                boolean byColumns = parameter.portion().columns().size() < columns;
                int[] local = parameter.portion().rows().stream()
                        .flatMapToInt(range -> IntStream.range((int) range.start(), (int) range.end()))
                        .toArray();
                if (byColumns) {
                    assertThat(local).hasSize(rows);
                    for (long c = parameter.portion().columns().start();
                            c < parameter.portion().columns().end();
                            c++) {
                        heldColumns[(int) c]++;
                    }
                    continue;
                }
                for (int i = 0; i < local.length; i++) {
                    int at = i;
                    List<Parameter.Copy> copies = parameter.copies().stream()
                            .filter(copy -> copy.rows().start() <= at
                                    && at < copy.rows().end())
                            .toList();
                    assertThat(copies.size()).isLessThanOrEqualTo(1);
                    heldRows[local[i]] += copies.isEmpty() ? 100 : 1;
                    countedRows[local[i]] +=
                            copies.isEmpty() || copies.getFirst().counted() ? 1 : 0;
                }
            }
            if (Arrays.stream(heldColumns).sum() > 0) {
                assertThat(heldColumns).containsOnly(1);
            } else {
                assertThat(countedRows).as(whole.name()).containsOnly(1);
                // Held by one rank and said to be no copy, or by several and said so by all.
                assertThat(Arrays.stream(heldRows).filter(held -> held != 100 && (held < 2 || held >= 100)))
                        .as(whole.name())
                        .isEmpty();
            }
        }
    }

    @Property(tries = 60)
    void headsAreGroupedEvenly(@ForAll("splits") Split split) {
        List<Model> models = models(split.config(), split.weights(), split.sequence());
        int heads = 0;
        for (Model model : models) {
            TracedBlock layer = TracedBlock.of(
                    model.blocks().get(1),
                    settings(Trace.Mode.EVALUATE, 1, models.size(), false),
                    new Shape(models.size(), 12));
            Op.Attention attention = layer.forward().stream()
                    .map(node -> node.op())
                    .filter(Op.Attention.class::isInstance)
                    .map(Op.Attention.class::cast)
                    .findFirst()
                    .orElseThrow();
            assertThat(attention.shape().keyValueHeads()).isPositive();
            assertThat(attention.shape().heads()).isPositive();
            assertThat(attention.shape().heads() % attention.shape().keyValueHeads())
                    .isZero();
            heads += attention.shape().heads();
        }
        assertThat(heads).isEqualTo(split.config().heads());
    }

    @Property(tries = 60)
    void holdersOfAKeyValueHeadAgreeOnWhoTheyAre(@ForAll("splits") Split split) {
        List<Model> models = models(split.config(), split.weights(), split.sequence());
        for (int i = 0; i < models.size(); i++) {
            List<Integer> holders = models.get(i).axes().getOrDefault(TensorParallel.KEY_VALUE_AXIS, List.of(i));
            assertThat(holders).contains(i).isSorted();
            for (int holder : holders) {
                assertThat(models.get(holder).axes().getOrDefault(TensorParallel.KEY_VALUE_AXIS, List.of(holder)))
                        .isEqualTo(holders);
            }
        }
    }

    @Test
    void moreRanksThanHeadsAreRefused() {
        assertThatThrownBy(() -> models(config(4, 2, 48, WORDS, false), Collections.nCopies(5, 1.0), false))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("5 tensor-parallel ranks")
                .hasMessageContaining("from 1 to 4");
        assertThatThrownBy(() -> models(config(4, 2, 3, WORDS, false), Collections.nCopies(4, 1.0), false))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("from 1 to 3");
    }

    @Test
    void sizesThatCardsLike() {
        List<Long> columns = IntStream.range(0, 3)
                .mapToObj(i -> new TensorParallel(3, i, List.of(1.0, 1.0, 1.0), false)
                        .part(11008)
                        .size())
                .toList();
        assertThat(columns).containsExactly(58 * 64L, 57 * 64L, 57 * 64L);
    }
}
