package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static troika.tensor.KernelsFixture.sum;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/// Embedding and cross-entropy where a rank has a range of the vocabulary.
interface VocabularyContract extends FixtureHolder {
    @ParameterizedTest
    @CsvSource({
        "F32, 335, 334, 72",
        "BF16, 0, 335, 72",
        "BF16, 669, 334, 75",
        "F16, 335, 334, 72",
        "F16, 1002, 1, 10",
        "BF16, 500, 0, 72"
    })
    default void embeddingOfARange(DType dtype, int first, int rows, int columns) {
        int[] tokens = fixture().indices(137, 1003);
        tokens[0] = first;
        tokens[1] = first + rows;
        tokens[2] = first - 1;
        tokens[3] = first + rows - 1;
        Tensor table = fixture().normal(dtype, rows, columns);
        Tensor tokenTensor = fixture().integers(tokens);
        Tensor out = fixture().poisoned(dtype, 137, columns);

        fixture().run((kernels, stream) -> kernels.embedding(stream, tokenTensor, table, first, out));

        double[] actual = fixture().read(out);
        assertThat(actual).containsExactly(Oracle.embedding(tokens, fixture().read(table), columns, first));
        assertThat(Arrays.copyOfRange(actual, columns, 2 * columns)).containsOnly(0);
    }

    @ParameterizedTest
    @CsvSource({
        "F32, false, 335, 334, 72",
        "F32, true, 0, 335, 75",
        "BF16, false, 669, 334, 75",
        "BF16, true, 3, 4, 2312",
        "BF16, false, 500, 0, 72",
        "F16, false, 335, 334, 72",
        "F16, true, 3, 2, 75"
    })
    default void embeddingBackwardOfARange(DType dtype, boolean accumulate, int first, int rows, int columns) {
        int[] tokens = fixture().indices(137, rows < 5 ? 9 : 1003);
        tokens[0] = first;
        tokens[1] = first + rows;
        tokens[2] = first - 1;
        tokens[3] = first + rows - 1;
        Tensor gradOut = fixture().normal(dtype, 137, columns);
        Tensor tokenTensor = fixture().integers(tokens);
        Tensor gradTable = fixture().poisoned(DType.F32, rows, columns);
        double[] expected = Oracle.embeddingBackward(tokens, fixture().read(gradOut), rows, columns, first);
        if (accumulate) {
            double[] before = fixture().gaussians(gradTable.elements(), 1);
            fixture().write(gradTable, before);
            expected = sum(expected, before);
        }

        fixture()
                .run((kernels, stream) ->
                        kernels.embeddingBackward(stream, tokenTensor, gradOut, first, gradTable, accumulate));

        fixture().assertClose(DType.F32, gradTable, expected);
    }

    /// The logits of ranks that have ranges of the vocabulary, each beginning at an odd place, and their parts.
    ///
    /// @param firsts the first token of each, and the vocabulary
    record Ranges(int[] firsts, List<Tensor> logits, Tensor parts) {
        /// @param values the logits of the whole vocabulary
        static Ranges of(KernelsFixture fixture, DType dtype, double[] values, int rows, int ranks) {
            int vocabulary = values.length / rows;
            int[] firsts = new int[ranks + 1];
            List<Tensor> logits = new ArrayList<>();
            for (int rank = 0; rank < ranks; rank++) {
                // The first has more than others.
                firsts[rank + 1] = Math.ceilDiv((rank + 2) * vocabulary, ranks + 1);
                double[] own = columns(values, rows, firsts[rank], firsts[rank + 1]);
                fixture.misalign(dtype);
                Tensor tensor = fixture.poisoned(dtype, rows, firsts[rank + 1] - firsts[rank]);
                fixture.write(tensor, own);
                logits.add(tensor);
            }
            return new Ranges(firsts, logits, fixture.poisoned(DType.F32, ranks, rows, 3));
        }

        static double[] columns(double[] whole, int rows, int from, int to) {
            int vocabulary = whole.length / rows;
            double[] own = new double[rows * (to - from)];
            for (int t = 0; t < rows; t++) {
                System.arraycopy(whole, t * vocabulary + from, own, t * (to - from), to - from);
            }
            return own;
        }

        Tensor part(int rank) {
            long rows = parts.shape().size(1);
            return parts.memory().tensor(parts.offset() + 12L * rank * rows, DType.F32, Shape.of(rows, 3));
        }

        int ranks() {
            return logits.size();
        }

        /// What each rank does, with its own loss.
        void run(KernelsFixture fixture, Tensor labels, Tensor scale, List<Tensor> losses, boolean gradient) {
            fixture.run((kernels, stream) -> {
                for (int rank = 0; rank < ranks(); rank++) {
                    kernels.crossEntropyPart(stream, logits.get(rank), labels, firsts[rank], part(rank));
                }
                for (int rank = 0; rank < ranks(); rank++) {
                    kernels.crossEntropyWhole(
                            stream,
                            logits.get(rank),
                            labels,
                            parts,
                            scale,
                            firsts[rank],
                            losses.get(rank),
                            gradient,
                            rank % 2 == 1);
                }
            });
        }
    }

    /// Losses of ranks: those of odd ones are 2.5 before, and are accumulated to.
    private List<Tensor> losses(int ranks) {
        List<Tensor> losses = new ArrayList<>();
        for (int rank = 0; rank < ranks; rank++) {
            losses.add(rank % 2 == 1 ? fixture().floats(2.5) : fixture().poisoned(DType.F32, 1));
        }
        return losses;
    }

    @ParameterizedTest
    @CsvSource({
        "F32, 1003, 1, true",
        "F32, 1003, 3, false",
        "F32, 5003, 3, true",
        "F32, 2, 3, true",
        "BF16, 1003, 3, true",
        "BF16, 1003, 2, false",
        "BF16, 4096, 1, true",
        "BF16, 70001, 3, true",
        "BF16, 2, 3, true",
        "F16, 1003, 3, true",
        "F16, 2, 3, false",
        "F16, 50257, 3, true",
        "F16, 5003, 16, true"
    })
    default void crossEntropyOfRanges(DType dtype, int vocabulary, int ranks, boolean gradient) {
        int rows = vocabulary > 40_000 ? 11 : 37;
        int[] labels = fixture().indices(rows, vocabulary);
        labels[0] = 0;
        labels[1] = vocabulary - 1;
        labels[3] = -100;
        labels[rows - 1] = -1;
        double[] values = fixture().gaussians((long) rows * vocabulary, 4);
        for (int i = 0; i < vocabulary; i++) {
            // Without its maximum subtracted this row overflows; the next underflows.
            values[4 * vocabulary + i] += 500;
            values[5 * vocabulary + i] -= 500;
            // The last rank's columns are far above the first one's, so that only they count; then far below.
            values[6 * vocabulary + i] += 400.0 * i / vocabulary;
            values[7 * vocabulary + i] -= 400.0 * i / vocabulary;
            // Without a target, so that nobody looks.
            values[3 * vocabulary + i] = i % 2 == 0 ? Double.NaN : Double.NEGATIVE_INFINITY;
        }
        // As the dtype has them.
        Tensor rounded = fixture().poisoned(dtype, rows, vocabulary);
        fixture().write(rounded, values);
        values = fixture().read(rounded);
        Ranges ranges = Ranges.of(fixture(), dtype, values, rows, ranks);
        Tensor labelTensor = fixture().integers(labels);
        Tensor scale = fixture().floats(1.0 / 35);
        List<Tensor> losses = losses(ranks);
        Oracle.CrossEntropy expected =
                Oracle.crossEntropy(values, labels, fixture().read(scale)[0]);

        ranges.run(fixture(), labelTensor, scale, losses, gradient);

        for (int rank = 0; rank < ranks; rank++) {
            int from = ranges.firsts()[rank];
            int to = ranges.firsts()[rank + 1];
            double[] own = Ranges.columns(values, rows, from, to);
            assertPart(fixture().read(ranges.part(rank)), Oracle.crossEntropyPart(own, labels, from));
            fixture().assertClose(DType.F32, losses.get(rank), new double[] {expected.loss() + (rank % 2 == 1 ? 2.5 : 0)
            });
            double[] gradients = Ranges.columns(expected.gradient(), rows, from, to);
            if (gradient) {
                fixture().assertClose(dtype, ranges.logits().get(rank), gradients);
            } else {
                assertThat(fixture().read(ranges.logits().get(rank))).containsExactly(own);
            }
        }
    }

    /// Maxima and labels' logits are exact.
    private static void assertPart(double[] actual, double[] expected) {
        double[] sums = new double[actual.length / 3];
        double[] expectedSums = new double[actual.length / 3];
        for (int t = 0; t < sums.length; t++) {
            assertThat(actual[3 * t]).as("maximum of row " + t).isEqualTo(expected[3 * t]);
            assertThat(actual[3 * t + 2]).as("label's logit of row " + t).isEqualTo(expected[3 * t + 2]);
            sums[t] = actual[3 * t + 1];
            expectedSums[t] = expected[3 * t + 1];
        }
        KernelsFixture.assertClose(DType.F32, sums, expectedSums);
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16", "F16"})
    default void crossEntropyOfRangesOfAConfidentModelIsNearZero(DType dtype) {
        double[] values = new double[2 * 77];
        values[5] = 60;
        values[77 + 76] = 60;
        Ranges ranges = Ranges.of(fixture(), dtype, values, 2, 2);
        Tensor labels = fixture().integers(5, 76);
        Tensor scale = fixture().floats(0.5);
        List<Tensor> losses = losses(2);

        ranges.run(fixture(), labels, scale, losses, true);

        assertThat(fixture().read(losses.getFirst())[0]).isBetween(-1e-6, 1e-6);
        for (Tensor logits : ranges.logits()) {
            assertThat(fixture().read(logits))
                    .usingComparatorWithPrecision(1e-6)
                    .containsOnly(0);
        }
    }

    /// On every rank, whichever has it.
    @ParameterizedTest
    @CsvSource({
        "F32, NaN, 0",
        "F32, Infinity, 1002",
        "F32, -Infinity, 500",
        "BF16, NaN, 1002",
        "BF16, Infinity, 500",
        "BF16, -Infinity, 0",
        "F16, NaN, 500",
        "F16, Infinity, 0",
        "F16, -Infinity, 1001"
    })
    default void aLogitOfARangeThatIsNotFiniteMakesTheLossNaN(DType dtype, double value, int column) {
        int vocabulary = 1003;
        double[] values = fixture().gaussians(3L * vocabulary, 4);
        values[vocabulary + column] = value;
        Ranges ranges = Ranges.of(fixture(), dtype, values, 3, 2);
        Tensor labels = fixture().integers(7, 8, 900);
        Tensor scale = fixture().floats(0.5);
        List<Tensor> losses = losses(2);

        ranges.run(fixture(), labels, scale, losses, true);

        for (int rank = 0; rank < 2; rank++) {
            assertThat(fixture().read(losses.get(rank))[0]).isNaN();
            double[] gradient = fixture().read(ranges.logits().get(rank));
            for (int i = 0; i < gradient.length; i++) {
                assertThat(Double.isNaN(gradient[i])).as("element " + i).isEqualTo(i / (gradient.length / 3) == 1);
            }
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16", "F16"})
    default void aLabelThatNoRangeHasMakesTheLossInfinite(DType dtype) {
        Ranges ranges = Ranges.of(fixture(), dtype, fixture().gaussians(3 * 77, 1), 3, 2);
        Tensor labels = fixture().integers(7, 77, 76);
        Tensor scale = fixture().floats(0.5);
        List<Tensor> losses = losses(2);

        ranges.run(fixture(), labels, scale, losses, true);

        for (Tensor loss : losses) {
            assertThat(fixture().read(loss)).containsExactly(Double.POSITIVE_INFINITY);
        }
    }
}
