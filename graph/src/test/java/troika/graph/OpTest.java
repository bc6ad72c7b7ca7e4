package troika.graph;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Shape;

class OpTest {
    private static final Shape X = new Shape(3, 5);
    private static final Shape WEIGHT = new Shape(7, 5);
    private static final Shape OUT = new Shape(3, 7);

    @Test
    void theThreeProductsOfALinearLayerTakeTheSameWork() {
        long expected = 2 * 3 * 5 * 7;
        assertThat(new Op.Linear().flops(List.of(X, WEIGHT), List.of(OUT))).isEqualTo(expected);
        assertThat(new Op.Linear().flops(List.of(X, WEIGHT, OUT), List.of(OUT))).isEqualTo(expected);
        assertThat(new Op.LinearBackwardInput().flops(List.of(OUT, WEIGHT), List.of(X)))
                .isEqualTo(expected);
        assertThat(new Op.LinearBackwardWeight(true).flops(List.of(OUT, X), List.of(WEIGHT)))
                .isEqualTo(expected);
    }

    @Test
    void attentionCountsHalfOfItsSquare() {
        AttentionShape shape = new AttentionShape(2, 16, 4, 2, 8, true);
        // Two products of 2 · 16 · 16 · 8 operations for each of 2 · 4 heads, half of them masked.
        long forward = 2 * 2 * 16 * 16 * 8 * 2 * 4 / 2;
        assertThat(new Op.Attention(shape).flops(List.of(), List.of())).isEqualTo(forward);
        assertThat(new Op.AttentionBackward(shape).flops(List.of(), List.of())).isEqualTo(forward * 5 / 2);
    }

    @Test
    void elementWiseWorkCountsAsNone() {
        assertThat(new Op.SwiGlu().flops(List.of(X), List.of(X))).isZero();
        assertThat(new Op.AllReduce("data").flops(List.of(), List.of(X))).isZero();
    }

    @Test
    void aTrainedLayerTakesThreeTimesItsForward() {
        TracedBlock layer = TracedBlock.of(
                Graphs.layer(), Graphs.settings(Trace.Mode.TRAIN, DType.F32), new Shape(16, Graphs.HIDDEN));
        long products = 2 * 16 * (16 * 8 + 8 * 8 + 24 * 8 + 12 * 8);
        long attention = 2 * 2 * 2 * 8 * 8 * 4;
        assertThat(flops(layer.forward())).isEqualTo(products + attention);
        assertThat(flops(layer.backwardInput()) + flops(layer.backwardWeight()))
                .isEqualTo(2 * products + attention * 5 / 2);
    }

    private static long flops(List<Node> nodes) {
        return nodes.stream()
                .mapToLong(node -> node.op()
                        .flops(
                                node.inputs().stream()
                                        .filter(value -> value != null)
                                        .map(Value::shape)
                                        .toList(),
                                node.outputs().stream().map(Value::shape).toList()))
                .sum();
    }

    @Test
    void accumulatingIsAPropertyOfTheOp() {
        assertThat(new Op.LinearBackwardWeight(true).accumulating(false)).isEqualTo(new Op.LinearBackwardWeight(false));
        assertThat(new Op.CrossEntropy(true, false).accumulating(true)).isEqualTo(new Op.CrossEntropy(true, true));
        assertThat(new Op.AllGather("data").collective()).isTrue();
        assertThat(new Op.Copy().collective()).isFalse();
    }
}
