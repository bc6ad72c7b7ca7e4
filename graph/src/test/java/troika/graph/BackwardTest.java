package troika.graph;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Map;
import org.junit.jupiter.api.Test;
import troika.tensor.DType;
import troika.tensor.Shape;

class BackwardTest {
    private static TracedBlock trace(Block block, Trace.Mode mode) {
        return TracedBlock.of(block, Graphs.settings(mode, DType.BF16), new Shape(16, Graphs.HIDDEN));
    }

    @Test
    void aDecoderLayer() {
        TracedBlock layer = trace(Graphs.layer(), Trace.Mode.TRAIN);
        assertThat(Graphs.words(layer.forward()))
                .containsExactly(
                        "RmsNorm input norm1 → norm rstd",
                        "Linear norm qkv - → qkv",
                        "Rope qkv positions rope → qkv",
                        "Attention qkv positions → attention logSumExp",
                        "Linear attention out input → hidden",
                        "RmsNorm hidden norm2 → norm rstd",
                        "Linear norm gateUp - → gateUp",
                        "SwiGlu gateUp → swiglu",
                        "Linear swiglu down hidden → output");
        // Gradients that skip a part of the layer are added by the norm's kernel: no op is spent on sums.
        assertThat(Graphs.words(layer.backwardInput()))
                .containsExactly(
                        "LinearBackwardInput outputGradient down → grad_swiglu",
                        "SwiGluBackward grad_swiglu gateUp → grad_gateUp",
                        "LinearBackwardInput grad_gateUp gateUp → grad_norm",
                        "RmsNormBackward grad_norm hidden norm2 rstd outputGradient → ∂norm2 grad_hidden",
                        "LinearBackwardInput grad_hidden out → grad_attention",
                        "AttentionBackward grad_attention qkv positions attention logSumExp → grad_qkv",
                        "Rope grad_qkv positions rope → grad_qkv",
                        "LinearBackwardInput grad_qkv qkv → grad_norm",
                        "RmsNormBackward grad_norm input norm1 rstd grad_hidden → ∂norm1 grad_input");
        assertThat(Graphs.words(layer.backwardWeight()))
                .containsExactly(
                        "LinearBackwardWeight outputGradient swiglu → ∂down",
                        "LinearBackwardWeight grad_gateUp norm → ∂gateUp",
                        "LinearBackwardWeight grad_hidden attention → ∂out",
                        "LinearBackwardWeight grad_qkv norm → ∂qkv");
        assertThat(layer.inputGradient())
                .isNotNull()
                .satisfies(gradient -> assertThat(gradient.shape()).isEqualTo(new Shape(16, Graphs.HIDDEN)));
    }

    @Test
    void theHeadComputesItsGradientsChunkByChunk() {
        Trace.Settings settings =
                new Trace.Settings(Trace.Mode.TRAIN, DType.BF16, 2, 40, true, false, 64 * Graphs.WORDS);
        TracedBlock head = TracedBlock.of(Graphs.head(), settings, new Shape(80, Graphs.HIDDEN));
        assertThat(Graphs.words(head.forward()))
                .containsExactly(
                        "RmsNorm input norm → norm rstd",
                        "Linear norm weight - → logits",
                        "CrossEntropy logits labels scale → loss gradLogits",
                        "LinearBackwardInput gradLogits weight → gradNorm",
                        "LinearBackwardWeight gradLogits norm → ∂weight",
                        "Linear norm weight - → logits",
                        "CrossEntropy logits labels scale → loss gradLogits",
                        "LinearBackwardInput gradLogits weight → gradNorm",
                        "LinearBackwardWeight gradLogits norm → ∂weight");
        assertThat(Graphs.words(head.backwardInput()))
                .containsExactly("RmsNormBackward gradNorm input norm rstd - → ∂norm grad_input");
        assertThat(head.backwardWeight()).isEmpty();
        assertThat(head.forward().get(1).outputs().getFirst().shape()).isEqualTo(new Shape(64, Graphs.WORDS));
        assertThat(head.forward().get(5).outputs().getFirst().shape()).isEqualTo(new Shape(16, Graphs.WORDS));
        assertThat(head.forward().get(5).input(0).rootOffset()).isEqualTo(64L * Graphs.HIDDEN);
        assertThat(head.output()).isNull();
        assertThat(head.outputGradient()).isNull();
    }

    @Test
    void evaluationHasNoGradients() {
        TracedBlock head = trace(Graphs.head(), Trace.Mode.EVALUATE);
        assertThat(Graphs.words(head.forward()))
                .containsExactly(
                        "RmsNorm input norm → norm rstd",
                        "Linear norm weight - → logits",
                        "CrossEntropy logits labels scale → loss");
        TracedBlock layer = trace(Graphs.layer(), Trace.Mode.EVALUATE);
        assertThat(layer.backwardInput()).isEmpty();
        assertThat(layer.backwardWeight()).isEmpty();
        assertThat(layer.inputGradient()).isNull();
    }

    @Test
    void shapesFollowFromTheMicrobatch() {
        TracedBlock layer = trace(Graphs.layer(), Trace.Mode.TRAIN);
        assertThat(layer.forward().stream()
                        .flatMap(node -> node.outputs().stream())
                        .map(value -> value.name() + value.shape() + value.dtype())
                        .toList())
                .containsExactly(
                        "norm[16, 8]BF16",
                        "rstd[16]F32",
                        "qkv[16, 16]BF16",
                        "qkv[16, 16]BF16",
                        "attention[16, 8]BF16",
                        "logSumExp[2, 2, 8]F32",
                        "hidden[16, 8]BF16",
                        "norm[16, 8]BF16",
                        "rstd[16]F32",
                        "gateUp[16, 24]BF16",
                        "swiglu[16, 12]BF16",
                        "output[16, 8]BF16");
        assertThat(layer.backwardWeight())
                .allSatisfy(
                        node -> assertThat(node.outputs().getFirst().dtype()).isEqualTo(DType.F32));
    }

    @Test
    void aGradientThatNoOpAddsIsRefused() {
        Block twice = new Graphs.Simple(
                Map.of("weight", new Parameter("weight", new Shape(8, 8), true, 0.02)), (trace, x) -> {
                    Value first = trace.linear(Graphs.present(x), trace.parameter("weight"), null, "first");
                    return trace.linear(
                            trace.linear(first, trace.parameter("weight"), null, "a"),
                            trace.parameter("weight"),
                            first,
                            "b");
                });
        assertThatThrownBy(() -> trace(twice, Trace.Mode.TRAIN)).hasMessageContaining("two gradients reach first");
    }

    @Test
    void aParameterThatIsNotThereIsRefused() {
        Block wrong = new Graphs.Simple(
                Map.of(), (trace, x) -> trace.rmsNorm(Graphs.present(x), trace.parameter("norm"), 1e-6));
        assertThatThrownBy(() -> trace(wrong, Trace.Mode.TRAIN)).hasMessageContaining("norm");
    }
}
