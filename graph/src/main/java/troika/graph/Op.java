package troika.graph;

import java.util.List;
import troika.tensor.AttentionShape;
import troika.tensor.Shape;

/// What one call does: a method of [troika.tensor.Kernels], or a collective over a named axis of
/// ranks. The records hold numbers only, so a program made of them can be written as JSON. Their
/// inputs and outputs, in order, are documented here by the names of the kernels' arguments; `?`
/// marks an input that may be absent.
public sealed interface Op {
    /// An op whose output is added to, or overwritten.
    sealed interface Accumulating extends Op {
        boolean accumulate();

        /// The same op, accumulating or not.
        Op accumulating(boolean accumulate);
    }

    /// tokens, table → out; zeros where the table has no row for a token
    ///
    /// @param first the token of the table's first row
    record Embedding(long first) implements Op {}

    /// tokens, gradOut → gradTable; tokens that it has no row for are ignored
    ///
    /// @param first the token of the table's first row
    record EmbeddingBackward(long first, boolean accumulate) implements Accumulating {
        @Override
        public Op accumulating(boolean value) {
            return new EmbeddingBackward(first, value);
        }
    }

    /// x, weight → out, rstd
    record RmsNorm(float epsilon) implements Op {}

    /// gradOut, x, weight, rstd, residual? → gradWeight, gradX, out?
    record RmsNormBackward(boolean accumulate) implements Accumulating {
        @Override
        public Op accumulating(boolean value) {
            return new RmsNormBackward(value);
        }
    }

    /// x, weight, residual? → out
    record Linear() implements Op {}

    /// gradOut, weight → gradX
    record LinearBackwardInput() implements Op {}

    /// gradOut, x → gradWeight
    record LinearBackwardWeight(boolean accumulate) implements Accumulating {
        @Override
        public Op accumulating(boolean value) {
            return new LinearBackwardWeight(value);
        }
    }

    /// x, positions, table → x, in place
    record Rope(int heads, int headSize, boolean inverse) implements Op {}

    /// qkv, positions → out, logSumExp
    record Attention(AttentionShape shape) implements Op {}

    /// gradOut, qkv, positions, out, logSumExp → gradQkv
    record AttentionBackward(AttentionShape shape) implements Op {}

    /// qkv, position → keys, values (both updated), out
    record AttentionDecode(AttentionShape shape) implements Op {}

    /// gateUp → out
    record SwiGlu() implements Op {}

    /// gradOut, gateUp → gradGateUp, out?
    record SwiGluBackward() implements Op {}

    /// logits, labels, scale → loss, and with `gradient` also logits, in place
    record CrossEntropy(boolean gradient, boolean accumulate) implements Accumulating {
        @Override
        public Op accumulating(boolean value) {
            return new CrossEntropy(gradient, value);
        }
    }

    /// logits, labels → part, of this rank's range of the vocabulary
    ///
    /// @param first the token of the first column
    record CrossEntropyPart(long first) implements Op {}

    /// logits, labels, parts of all ranks in their order, scale → loss, and with `gradient` also logits, in place
    ///
    /// @param first the token of the first column
    record CrossEntropyWhole(long first, boolean gradient, boolean accumulate) implements Accumulating {
        @Override
        public Op accumulating(boolean value) {
            return new CrossEntropyWhole(first, gradient, value);
        }
    }

    /// x → out
    record SumSquares(boolean accumulate) implements Accumulating {
        @Override
        public Op accumulating(boolean value) {
            return new SumSquares(value);
        }
    }

    /// sumSquares, loss, unscale → out
    record ClipFactor(float maxNorm) implements Op {}

    /// gradient, clip, scalars → master, moment1, moment2, weight (all updated)
    record AdamW(long decayed, float beta1, float beta2, float epsilon, float weightDecay, long first) implements Op {}

    /// → out
    record Zero() implements Op {}

    /// from → to
    record Copy() implements Op {}

    /// x → into (updated)
    record Add() implements Op {}

    /// from → to, rounded to its dtype; they may not overlap
    record Cast() implements Op {}

    /// → tensor, summed over the ranks of the axis in place
    record AllReduce(String axis) implements Op {}

    /// full → shard, this rank's part of the sum; it may lie in `full`
    record ReduceScatter(String axis) implements Op {}

    /// shard → full; the shard may lie in its place in `full`
    record AllGather(String axis) implements Op {}

    /// tensor →, to a rank of the world
    record Send(int rank) implements Op {}

    /// → tensor, from a rank of the world
    record Receive(int rank) implements Op {}

    /// Whether this moves bytes between ranks, rather than being a kernel.
    default boolean collective() {
        return switch (this) {
            case AllReduce _, ReduceScatter _, AllGather _, Send _, Receive _ -> true;
            default -> false;
        };
    }

    /// Floating-point operations of the matrix products, a multiplication and an addition being two;
    /// element-wise work counts as none, since bytes bound it.
    ///
    /// @param inputs shapes of the inputs that are there
    /// @param outputs shapes of the outputs
    default long flops(List<Shape> inputs, List<Shape> outputs) {
        return switch (this) {
            case Linear _, LinearBackwardInput _ ->
                2 * outputs.getFirst().elements() * inputs.getFirst().size(-1);
            case LinearBackwardWeight _ ->
                2 * outputs.getFirst().elements() * inputs.getFirst().size(0);
            case Attention a -> 2 * causalProduct(a.shape());
            case AttentionBackward a -> 5 * causalProduct(a.shape());
            default -> 0;
        };
    }

    /// One product of queries with keys, or of scores with values, half of the square counted.
    private static long causalProduct(AttentionShape s) {
        return (long) s.batch() * s.heads() * s.sequence() * s.sequence() * s.headSize();
    }
}
