package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.Arrays;
import java.util.Random;
import java.util.function.UnaryOperator;
import org.junit.jupiter.api.Test;

/// The oracle's gradients are the differences of its functions.
final class OracleTest {
    private final Random random = new Random(1);

    private double[] normal(int n) {
        return random.doubles(n).map(x -> random.nextGaussian()).toArray();
    }

    private static double dot(double[] a, double[] b) {
        double sum = 0;
        for (int i = 0; i < a.length; i++) {
            sum += a[i] * b[i];
        }
        return sum;
    }

    // The gradient of gradOut · function(x).
    private static void assertGradient(
            UnaryOperator<double[]> function, double[] x, double[] gradOut, double[] gradient) {
        double[] differences = new double[x.length];
        double step = 1e-6;
        for (int i = 0; i < x.length; i++) {
            double[] up = x.clone();
            double[] down = x.clone();
            up[i] += step;
            down[i] -= step;
            differences[i] = (dot(gradOut, function.apply(up)) - dot(gradOut, function.apply(down))) / (2 * step);
        }
        assertThat(gradient).usingComparatorWithPrecision(1e-6).containsExactly(differences);
        assertThat(Arrays.stream(gradient).map(Math::abs).sum()).isPositive();
    }

    @Test
    void rmsNorm() {
        double[] x = normal(12);
        double[] weight = normal(4);
        double[] gradOut = normal(12);
        double[] rstd = Oracle.rstd(x, 4, 0.1);
        assertGradient(v -> Oracle.rmsNorm(v, weight, 0.1), x, gradOut, Oracle.rmsNormGradX(gradOut, x, weight, rstd));
        assertGradient(w -> Oracle.rmsNorm(x, w, 0.1), weight, gradOut, Oracle.rmsNormGradWeight(gradOut, x, rstd, 4));
    }

    @Test
    void swiglu() {
        double[] gateUp = normal(20);
        double[] gradOut = normal(10);
        assertGradient(v -> Oracle.swiglu(v, 5), gateUp, gradOut, Oracle.swigluBackward(gradOut, gateUp, 5));
    }

    @Test
    void attention() {
        AttentionShape shape = new AttentionShape(2, 4, 4, 2, 3, true);
        int[] positions = {0, 1, 2, 3, 0, 1, 0, 1};
        double[] qkv = normal(8 * shape.qkvColumns());
        double[] gradOut = normal(8 * 12);
        assertGradient(
                v -> Oracle.attention(shape, v, positions).out(),
                qkv,
                gradOut,
                Oracle.attentionBackward(shape, gradOut, qkv, positions));
    }

    @Test
    void attentionToOneKeyGivesItsValue() {
        AttentionShape shape = new AttentionShape(1, 2, 2, 1, 2, true);
        double[] qkv = normal(2 * shape.qkvColumns());
        double[] out = Oracle.attention(shape, qkv, new int[] {0, 0}).out();
        assertThat(out)
                .usingComparatorWithPrecision(1e-12)
                .containsExactly(qkv[6], qkv[7], qkv[6], qkv[7], qkv[14], qkv[15], qkv[14], qkv[15]);
    }

    @Test
    void crossEntropy() {
        double[] logits = normal(15);
        int[] labels = {4, -1, 0};
        double[] gradient = Oracle.crossEntropy(logits, labels, 0.5).gradient();
        assertGradient(
                v -> new double[] {Oracle.crossEntropy(v, labels, 0.5).loss()}, logits, new double[] {1}, gradient);
    }

    @Test
    void ropeTurnsBack() {
        double[] x = normal(20);
        double[] table = {0.6, 0.6, 0.8, 0.8};
        int[] positions = {0, 0};
        double[] there = Oracle.rope(x, 10, positions, table, 2, 4, false);
        assertThat(Oracle.rope(there, 10, positions, table, 2, 4, true))
                .usingComparatorWithPrecision(1e-12)
                .containsExactly(x);
        assertThat(there[0]).isEqualTo(x[0] * 0.6 - x[2] * 0.8);
    }

    @Test
    void embeddingBackwardAddsRowsOfOneToken() {
        assertThat(Oracle.embeddingBackward(new int[] {1, 1, 0}, new double[] {1, 2, 3, 4, 5, 6}, 3, 2, 0))
                .containsExactly(5, 6, 4, 6, 0, 0);
    }

    @Test
    void aRangeOfTheVocabularyHasItsOwnTokensOnly() {
        int[] tokens = {3, 1, 2, 2};
        assertThat(Oracle.embedding(tokens, new double[] {1, 2, 3, 4}, 2, 2)).containsExactly(3, 4, 0, 0, 1, 2, 1, 2);
        assertThat(Oracle.embeddingBackward(tokens, new double[] {1, 2, 3, 4, 5, 6, 7, 8}, 2, 2, 2))
                .containsExactly(12, 14, 1, 2);
    }

    @Test
    void partsOfACrossEntropyMakeItsLoss() {
        double[] logits = normal(10);
        int[] labels = {4, 1};
        double[] left = Oracle.crossEntropyPart(
                new double[] {logits[0], logits[1], logits[2], logits[5], logits[6], logits[7]}, labels, 0);
        double[] right = Oracle.crossEntropyPart(new double[] {logits[3], logits[4], logits[8], logits[9]}, labels, 3);
        double loss = 0;
        for (int t = 0; t < 2; t++) {
            double sum = left[3 * t + 1] * Math.exp(left[3 * t]) + right[3 * t + 1] * Math.exp(right[3 * t]);
            loss += Math.log(sum) - Math.max(left[3 * t + 2], right[3 * t + 2]);
        }
        assertThat(0.5 * loss)
                .isCloseTo(Oracle.crossEntropy(logits, labels, 0.5).loss(), within(1e-12));
        assertThat(new double[] {left[2], right[5]}).containsOnly(Double.NEGATIVE_INFINITY);
    }
}
