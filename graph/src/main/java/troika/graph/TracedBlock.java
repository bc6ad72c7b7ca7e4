package troika.graph;

import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.tensor.Shape;

/// A block as lists of ops on symbolic values, for one shape of microbatch.
///
/// @param input the block's input, null for the first block
/// @param output its output, null for the last block
/// @param outputGradient what its backward starts from, null for the last block and where there is no
/// backward
/// @param inputGradient what its backward hands to the block before, null likewise
public record TracedBlock(
        List<Node> forward,
        List<Node> backwardInput,
        List<Node> backwardWeight,
        @Nullable Value input,
        @Nullable Value output,
        @Nullable Value outputGradient,
        @Nullable Value inputGradient) {

    /// Traces `block`, and derives its backward where the mode is training.
    ///
    /// @param inputShape of the block's input, null for the first block
    public static TracedBlock of(Block block, Trace.Settings settings, @Nullable Shape inputShape) {
        Map<String, Parameter> parameters = block.parameters();
        Trace trace = new Trace(settings, parameters);
        @Nullable Value input = inputShape == null ? null : trace.blockInput(inputShape);
        @Nullable Value output = block.forward(trace, input);
        List<Node> forward = List.copyOf(trace.nodes());
        if (settings.mode() != Trace.Mode.TRAIN) {
            return new TracedBlock(forward, List.of(), List.of(), input, output, null, null);
        }
        @Nullable Value outputGradient = output == null ? null : trace.outputGradient(output);
        Backward backward = new Backward(trace, output, outputGradient);
        @Nullable Value inputGradient = input == null ? null : backward.gradient(input);
        return new TracedBlock(
                forward,
                List.copyOf(backward.inputNodes()),
                List.copyOf(backward.weightNodes()),
                input,
                output,
                outputGradient,
                inputGradient);
    }
}
