package troika.graph;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import troika.tensor.DType;
import troika.tensor.Shape;

class TensorParallelTest {
    private static TensorParallel rank(int index, boolean sequence) {
        return new TensorParallel(3, index, List.of(1.0, 1.0, 1.0), sequence);
    }

    private static TracedBlock trace(Block block, int rows, boolean rebuild) {
        Trace.Settings settings =
                new Trace.Settings(Trace.Mode.TRAIN, DType.BF16, 2, 8, true, rebuild, 64 * Graphs.WORDS);
        return TracedBlock.of(block, settings, new Shape(rows, Graphs.HIDDEN));
    }

    @Test
    void productsAreSummedInTheForwardAndTheirInputsGradientsInTheBackward() {
        TracedBlock layer = trace(Graphs.layer(rank(0, false)), 16, false);
        assertThat(Graphs.words(layer.forward()))
                .containsExactly(
                        "RmsNorm input norm1 → norm rstd",
                        "Linear norm qkv - → qkv",
                        "Rope qkv positions rope → qkv",
                        "Attention qkv positions → attention logSumExp",
                        "Linear attention out input → hidden",
                        "AllReduce  → hidden",
                        "RmsNorm hidden norm2 → norm rstd",
                        "Linear norm gateUp - → gateUp",
                        "SwiGlu gateUp → swiglu",
                        "Linear swiglu down hidden → output",
                        "AllReduce  → output");
        assertThat(Graphs.words(layer.backwardInput()))
                .containsExactly(
                        "LinearBackwardInput outputGradient down → grad_swiglu",
                        "SwiGluBackward grad_swiglu gateUp → grad_gateUp",
                        "LinearBackwardInput grad_gateUp gateUp → grad_norm",
                        "AllReduce  → grad_norm",
                        "RmsNormBackward grad_norm hidden norm2 rstd outputGradient → ∂norm2 grad_hidden",
                        "LinearBackwardInput grad_hidden out → grad_attention",
                        "AttentionBackward grad_attention qkv positions attention logSumExp → grad_qkv",
                        "Rope grad_qkv positions rope → grad_qkv",
                        "LinearBackwardInput grad_qkv qkv → grad_norm",
                        "AllReduce  → grad_norm",
                        "RmsNormBackward grad_norm input norm1 rstd grad_hidden → ∂norm1 grad_input");
        assertThat(layer.forward().get(5).op()).isEqualTo(new Op.AllReduce("tensor"));
    }

    @Test
    void oneRankAddsTheResidualAndAllKnowItsGradient() {
        TracedBlock first = trace(Graphs.layer(rank(0, false)), 16, false);
        TracedBlock second = trace(Graphs.layer(rank(1, false)), 16, false);
        assertThat(Graphs.words(second.forward()))
                .contains("Linear attention out - → hidden", "Linear swiglu down - → output");
        assertThat(Graphs.words(second.backwardInput())).isEqualTo(Graphs.words(first.backwardInput()));
        assertThat(Graphs.words(second.backwardWeight())).isEqualTo(Graphs.words(first.backwardWeight()));
    }

    @Test
    void underSequenceParallelismRowsAreGatheredAndScattered() {
        // 16 tokens on 3 ranks.
        TracedBlock layer = trace(Graphs.layer(rank(1, true)), 5, false);
        assertThat(Graphs.words(layer.forward()))
                .containsExactly(
                        "RmsNorm input norm1 → norm rstd",
                        "AllGather norm → norm",
                        "Linear norm qkv - → qkv",
                        "Rope qkv positions rope → qkv",
                        "Attention qkv positions → attention logSumExp",
                        "Linear attention out - → hidden",
                        "ReduceScatter hidden → hidden",
                        "Add input → hidden",
                        "RmsNorm hidden norm2 → norm rstd",
                        "AllGather norm → norm",
                        "Linear norm gateUp - → gateUp",
                        "SwiGlu gateUp → swiglu",
                        "Linear swiglu down - → output",
                        "ReduceScatter output → output",
                        "Add hidden → output");
        assertThat(Graphs.words(layer.backwardInput()))
                .containsExactly(
                        "AllGather outputGradient → grad_output",
                        "LinearBackwardInput grad_output down → grad_swiglu",
                        "SwiGluBackward grad_swiglu gateUp → grad_gateUp",
                        "LinearBackwardInput grad_gateUp gateUp → grad_norm",
                        "ReduceScatter grad_norm → grad_norm",
                        "RmsNormBackward grad_norm hidden norm2 rstd outputGradient → ∂norm2 grad_hidden",
                        "AllGather grad_hidden → grad_hidden",
                        "LinearBackwardInput grad_hidden out → grad_attention",
                        "AttentionBackward grad_attention qkv positions attention logSumExp → grad_qkv",
                        "Rope grad_qkv positions rope → grad_qkv",
                        "LinearBackwardInput grad_qkv qkv → grad_norm",
                        "ReduceScatter grad_norm → grad_norm",
                        "RmsNormBackward grad_norm input norm1 rstd grad_hidden → ∂norm1 grad_input");
        assertThat(layer.forward().get(0).outputs().getFirst().shape()).isEqualTo(new Shape(5, Graphs.HIDDEN));
        assertThat(layer.forward().get(1).outputs().getFirst().shape()).isEqualTo(new Shape(16, Graphs.HIDDEN));
        assertThat(layer.output())
                .isNotNull()
                .satisfies(output -> assertThat(output.shape()).isEqualTo(new Shape(5, Graphs.HIDDEN)));
    }

    @Test
    void whatWasMadeAgainIsGatheredAgain() {
        TracedBlock layer = trace(Graphs.layer(rank(1, true)), 5, true);
        assertThat(Graphs.words(layer.backwardInput()))
                .containsSubsequence(
                        "RmsNormBackward grad_norm hidden norm2 rstd outputGradient → ∂norm2 grad_hidden norm again",
                        "AllGather norm again → norm again",
                        "RmsNormBackward grad_norm input norm1 rstd grad_hidden → ∂norm1 grad_input norm again",
                        "AllGather norm again → norm again");
        assertThat(Graphs.words(layer.backwardWeight()))
                .contains("LinearBackwardWeight grad_gateUp norm again → ∂gateUp");
        TracedBlock whole = trace(Graphs.layer(rank(1, false)), 16, true);
        assertThat(Graphs.words(whole.backwardWeight()))
                .contains("LinearBackwardWeight grad_gateUp norm again → ∂gateUp");
    }

    @Test
    void theLossOverASplitVocabulary() {
        TracedBlock head = trace(Graphs.head(rank(1, false)), 16, false);
        assertThat(Graphs.words(head.forward()))
                .containsExactly(
                        "RmsNorm input norm → norm rstd",
                        "Linear norm weight - → logits",
                        "CrossEntropyPart logits labels → part",
                        "AllGather part → part",
                        "CrossEntropyWhole logits labels part scale → loss gradLogits",
                        "LinearBackwardInput gradLogits weight → gradNorm",
                        "LinearBackwardWeight gradLogits norm → ∂weight");
        assertThat(head.forward().get(2).op()).isEqualTo(new Op.CrossEntropyPart(Graphs.WORDS));
        assertThat(head.forward().get(3).outputs().getFirst().shape()).isEqualTo(new Shape(3, 16, 3));
        assertThat(head.forward().get(4).op()).isEqualTo(new Op.CrossEntropyWhole(Graphs.WORDS, true, true));
        assertThat(Graphs.words(head.backwardInput()))
                .containsExactly(
                        "AllReduce  → gradNorm", "RmsNormBackward gradNorm input norm rstd - → ∂norm grad_input");
        TracedBlock sequence = trace(Graphs.head(rank(1, true)), 5, false);
        assertThat(Graphs.words(sequence.backwardInput()))
                .containsExactly(
                        "ReduceScatter gradNorm → grad_norm",
                        "RmsNormBackward grad_norm input norm rstd - → ∂norm grad_input");
    }

    @Test
    void aSharedValueHasOneUser() {
        Block twice = new Graphs.Simple(
                Map.of("weight", new Parameter("weight", new Shape(8, 8), true, 0.02)), (trace, x) -> {
                    Value shared = trace.shared(Graphs.present(x));
                    Value first = trace.linear(shared, trace.parameter("weight"), null, "first");
                    return trace.linear(first, trace.parameter("weight"), shared, "second");
                });
        assertThatThrownBy(() -> trace(twice, 16, false)).hasMessageContaining("cannot be summed in place");
    }

    @Test
    void oneRankIsNeverSplitByTokens() {
        assertThat(new TensorParallel(1, 0, List.of(1.0), true)).isEqualTo(TensorParallel.NONE);
    }

    @Test
    void ranksDealtToKeyValueHeads() {
        // 3 ranks, 8 heads of which 4 use one key-value head each.
        assertThat(rank(0, false).heads(8, 2))
                .isEqualTo(new TensorParallel.Heads(new Range(0, 2), new Range(0, 1), List.of(0, 1)));
        assertThat(rank(1, false).heads(8, 2))
                .isEqualTo(new TensorParallel.Heads(new Range(2, 4), new Range(0, 1), List.of(0, 1)));
        assertThat(rank(2, false).heads(8, 2))
                .isEqualTo(new TensorParallel.Heads(new Range(4, 8), new Range(1, 2), List.of(2)));
        assertThat(rank(0, false).heads(8, 4))
                .isEqualTo(new TensorParallel.Heads(new Range(0, 4), new Range(0, 2), List.of(0)));
    }

    @Test
    void wrongRanksAreRefused() {
        assertThatThrownBy(() -> new TensorParallel(2, 2, List.of(1.0, 1.0), false))
                .isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(() -> new TensorParallel(2, 0, List.of(1.0, 0.0), false))
                .isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(() -> new TensorParallel(2, 0, List.of(1.0), false))
                .isInstanceOf(IllegalArgumentException.class);
    }

    @Test
    void adjoiningRowsAreOneRange() {
        Shape whole = new Shape(10, 2);
        assertThat(Portion.rows(whole, new Range(0, 4), new Range(4, 10))).isEqualTo(Portion.all(whole));
        assertThat(Portion.rows(whole, new Range(0, 3), new Range(4, 10)).rows())
                .hasSize(2);
    }
}
