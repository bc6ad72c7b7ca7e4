package troika.tensor;

import org.jspecify.annotations.Nullable;

/// What a device computes. One method is one launch, asynchronous on a [Stream]; tensors must stay
/// valid until it has run.
///
/// Notation: T tokens of a microbatch (batch × sequence, flattened), H hidden size, V vocabulary, Q and K
/// query and key-value heads, D head size, F intermediate size, N and K outputs and inputs of a matrix
/// product. "Compute dtype" is F32, BF16 or F16, the same for all such arguments of one call; arithmetic inside
/// is in fp32, and sums that cross many elements are at least fp32. Every result is the same, bit for bit,
/// on every call with the same arguments on the same machine; of products and attention only where the
/// device was opened as deterministic. Gradients of weights are F32; `accumulate`
/// adds to what is there, otherwise it is overwritten. No argument may overlap another unless said.
/// Tensors of zero rows are allowed and do nothing, but that gradients of weights which are not
/// accumulated become zero.
public interface Kernels {
    // Embedding: out[t] = table[tokens[t] − first]. The table may be a part of the vocabulary, the rows of the tokens
    // from `first` on; a whole one has first = 0.

    /// Tokens that the table has no row for give rows of zeros: they are another rank's. A token that no rank
    /// has cannot be told from such, so callers see to it that tokens are in [0, V).
    ///
    /// @param tokens I32 `[T]`
    /// @param table `[R, H]`, of the tokens first … first + R − 1
    /// @param out `[T, H]`, both of the compute dtype
    void embedding(Stream stream, Tensor tokens, Tensor table, long first, Tensor out);

    /// gradTable[v] (+)= Σ over t with tokens[t] = first + v of gradOut[t], summed in the order of t. Other
    /// tokens add nothing.
    ///
    /// @param gradOut `[T, H]` of the compute dtype
    /// @param gradTable F32 `[R, H]`
    void embeddingBackward(
            Stream stream, Tensor tokens, Tensor gradOut, long first, Tensor gradTable, boolean accumulate);

    // RMSNorm (Zhang & Sennrich 2019): out = weight · x · rstd, rstd = 1 / √(mean(x²) + epsilon), over the last
    // dimension.

    /// @param x `[T, H]`
    /// @param weight `[H]`
    /// @param out `[T, H]`, all of the compute dtype
    /// @param rstd F32 `[T]`
    void rmsNorm(Stream stream, Tensor x, Tensor weight, float epsilon, Tensor out, Tensor rstd);

    /// gradX = residual + rstd · (weight · gradOut − x · rstd² · mean(weight · gradOut · x));
    /// gradWeight (+)= Σ over t of gradOut · x · rstd.
    ///
    /// @param residual `[T, H]`: the gradient that reaches x past the norm, or null for none; may be gradX itself
    /// @param gradWeight F32 `[H]`
    /// @param out `[T, H]`: gets what [#rmsNorm] gave, made again, bit for bit; null where that was kept
    void rmsNormBackward(
            Stream stream,
            Tensor gradOut,
            Tensor x,
            Tensor weight,
            Tensor rstd,
            @Nullable Tensor residual,
            Tensor gradX,
            Tensor gradWeight,
            @Nullable Tensor out,
            boolean accumulate);

    // Linear layer without bias: out = x · weightᵀ (+ residual).

    /// @param x `[T, K]`
    /// @param weight `[N, K]`
    /// @param residual `[T, N]` or null
    /// @param out `[T, N]`, may be residual
    void linear(Stream stream, Tensor x, Tensor weight, @Nullable Tensor residual, Tensor out);

    /// gradX = gradOut · weight.
    ///
    /// @param gradOut `[T, N]`
    /// @param weight `[N, K]`
    /// @param gradX `[T, K]`
    void linearBackwardInput(Stream stream, Tensor gradOut, Tensor weight, Tensor gradX);

    /// gradWeight (+)= gradOutᵀ · x, accumulated in the product itself.
    ///
    /// @param gradOut `[T, N]`
    /// @param x `[T, K]`, both of the compute dtype
    /// @param gradWeight F32 `[N, K]`
    void linearBackwardWeight(Stream stream, Tensor gradOut, Tensor x, Tensor gradWeight, boolean accumulate);

    // Rotary position embedding (Su et al. 2021), in Hugging Face's order: a head's halves are the real and imaginary
    // parts.

    /// Rotates in place the first `heads` heads of each row of x by the angles of the row's
    /// position; `inverse` rotates back, which is the backward. The rest of a row (the values)
    /// stays.
    ///
    /// @param x `[T, C]` of the compute dtype, C ≥ heads × headSize
    /// @param positions I32 `[T]`, each in [0, P)
    /// @param table F32 `[P, headSize]`: cosines in the first half of a row, sines in the second
    void rope(Stream stream, Tensor x, Tensor positions, Tensor table, int heads, int headSize, boolean inverse);

    // Causal attention within documents: query i of a sequence sees keys i − positions[i] … i of
    // the same sequence, where positions[i] counts from the start of i's document (in this
    // sequence). Query head q uses key-value head q · K / Q. A row of qkv is the Q query heads,
    // then the K key heads, then the K value heads.

    /// out = softmax(scale · q · kᵀ) · v, computed in blocks (Dao et al. 2022): scores are never stored whole.
    ///
    /// @param qkv `[T, (Q + 2K) · D]`, T = batch × sequence
    /// @param positions I32 `[T]`
    /// @param out `[T, Q · D]`
    /// @param logSumExp F32 `[batch, Q, sequence]`, natural log
    void attention(Stream stream, AttentionShape shape, Tensor qkv, Tensor positions, Tensor out, Tensor logSumExp);

    /// @param gradOut `[T, Q · D]`
    /// @param gradQkv `[T, (Q + 2K) · D]`, overwritten
    void attentionBackward(
            Stream stream,
            AttentionShape shape,
            Tensor gradOut,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Tensor gradQkv);

    /// One new token against a cache: writes the key and value of `qkv` into row `position` of the
    /// caches, and attends to rows 0 … position.
    ///
    /// @param shape batch and sequence are 1
    /// @param qkv `[1, (Q + 2K) · D]`
    /// @param position I32 `[1]`
    /// @param keys `[P, K · D]`
    /// @param values `[P, K · D]`
    /// @param out `[1, Q · D]`
    void attentionDecode(
            Stream stream, AttentionShape shape, Tensor qkv, Tensor position, Tensor keys, Tensor values, Tensor out);

    // SwiGLU (Shazeer 2020): out = silu(gate) · up; a row of gateUp is the F gates, then the F ups.

    /// @param gateUp `[T, 2F]`
    /// @param out `[T, F]`
    void swiglu(Stream stream, Tensor gateUp, Tensor out);

    /// @param gradOut `[T, F]`
    /// @param gradGateUp `[T, 2F]`, may be gateUp itself
    /// @param out `[T, F]`: gets what [#swiglu] gave, made again, bit for bit; null where that was kept
    void swigluBackward(Stream stream, Tensor gradOut, Tensor gateUp, Tensor gradGateUp, @Nullable Tensor out);

    // Cross-entropy over logits, averaged by the caller's scale (1 / target tokens of the whole batch).

    /// loss (+)= scale · Σ over t with labels[t] ≥ 0 of −log softmax(logits[t])[labels[t]]; and
    /// where `gradient` is true the logits become their gradient in place: scale · (softmax −
    /// onehot), zero where the label is negative. A logit that is not finite makes the loss NaN, and the
    /// gradient of its row: minus infinity too, which is no probability of 0 but an overflow. Rows without
    /// a target are not looked at.
    ///
    /// @param logits `[T, V]` of the compute dtype
    /// @param labels I32 `[T]`, negative: no target
    /// @param scale F32 `[1]`
    /// @param loss F32 `[1]`
    void crossEntropy(
            Stream stream,
            Tensor logits,
            Tensor labels,
            Tensor scale,
            Tensor loss,
            boolean gradient,
            boolean accumulate);

    // Cross-entropy where ranks have a range of the vocabulary each: every rank computes its part, the parts are
    // gathered, and every rank makes the whole of them and its own columns' gradient.

    /// part[t] = (max, Σ exp(logit − max), the label's logit) of this rank's columns of row t; −∞ for the
    /// label's logit where the label is not in [first, first + C). Without a target, where the label is
    /// negative, a row is not looked at and has the part (0, 0, −∞). A logit that is not finite makes the sum
    /// NaN. A rank without columns has (−∞, 0, −∞).
    ///
    /// @param logits `[T, C]` of the compute dtype: of the tokens first … first + C − 1
    /// @param labels I32 `[T]`, negative: no target
    /// @param part F32 `[T, 3]`
    void crossEntropyPart(Stream stream, Tensor logits, Tensor labels, long first, Tensor part);

    /// What [#crossEntropy] computes, from the parts of all ranks, combined in their order: loss (+)= scale ·
    /// Σ over t with labels[t] ≥ 0 of −log softmax(logits[t])[labels[t]]; and where `gradient` is true these
    /// columns of the logits become their gradient in place: scale · (softmax − onehot), zero where the label
    /// is negative. A part whose sum is NaN makes the loss NaN, and the gradient of its row; a label that no
    /// rank has makes the loss infinite.
    ///
    /// @param logits `[T, C]` of the compute dtype, as [#crossEntropyPart] had them
    /// @param labels I32 `[T]`
    /// @param parts F32 `[ranks, T, 3]`
    /// @param scale F32 `[1]`
    /// @param first the token of the first column
    /// @param loss F32 `[1]`
    void crossEntropyWhole(
            Stream stream,
            Tensor logits,
            Tensor labels,
            Tensor parts,
            Tensor scale,
            long first,
            Tensor loss,
            boolean gradient,
            boolean accumulate);

    // The optimizer.

    /// out (+)= Σ x².
    /// @param x F32 `[n]`
    /// @param out F32 `[1]`
    void sumSquares(Stream stream, Tensor x, Tensor out, boolean accumulate);

    /// norm = √sumSquares · unscale; factor = min(1, maxNorm / (norm + 1e-6)) · unscale, or unscale where
    /// maxNorm is 0; NaN where the norm or the loss is not finite, which makes [#adamw] change nothing.
    ///
    /// @param sumSquares F32 `[1]`, of gradients of a loss that was scaled
    /// @param loss F32 `[1]`
    /// @param unscale F32 `[1]`: 1 / loss scale
    /// @param out F32 `[2]`: norm, factor
    void clipFactor(Stream stream, Tensor sumSquares, Tensor loss, Tensor unscale, float maxNorm, Tensor out);

    /// AdamW (Loshchilov & Hutter 2019) over flat memory, in PyTorch's order: with g = factor · gradient,
    /// p −= lr · decay · p (only the first `decayed` elements); m = β₁m + (1 − β₁)g; v = β₂v + (1 − β₂)g²;
    /// p −= lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε). The result goes to `master` and, rounded, to
    /// `weight`.
    ///
    /// Moments in BF16 are rounded stochastically, since to nearest they would stop moving: the
    /// float's bits plus 16 random ones, shifted right by 16 (values that are not finite are cut off
    /// instead). The random bits of element i are the low half, for m, and the high half, for v, of
    /// mix(mix(low(first + i) ⊕ seed) + high(first + i)), where low and high are halves of the 64 bits
    /// and mix is Wellons' lowbias32 (2018): x ⊕= x ≫ 16; x ·= 0x7feb352d; x ⊕= x ≫ 15;
    /// x ·= 0x846ca68b; x ⊕= x ≫ 16. They depend on the step and the element, not on the layout.
    /// The update of p takes m and v as they are before this rounding.
    ///
    /// @param master F32 `[n]`
    /// @param moment1 F32 or BF16 `[n]`
    /// @param moment2 `[n]` of the dtype of moment1
    /// @param gradient F32 `[n]`
    /// @param weight `[n]` of the compute dtype; where that is F32 it may be master itself
    /// @param clip F32 `[2]`, as [#clipFactor] writes it; nothing changes where the factor is NaN
    /// @param scalars F32 `[4]`: lr, 1 / (1 − β₁ᵗ), 1 / √(1 − β₂ᵗ), and the step's seed, the bits of an
    /// int
    /// @param first the number of the first element among all that the model has
    void adamw(
            Stream stream,
            Tensor master,
            Tensor moment1,
            Tensor moment2,
            Tensor gradient,
            Tensor weight,
            Tensor clip,
            Tensor scalars,
            long decayed,
            float beta1,
            float beta2,
            float epsilon,
            float weightDecay,
            long first);

    // Memory.

    /// Sets every byte to zero.
    void zero(Stream stream, Tensor out);

    /// Copies; dtypes and numbers of elements are the same. Either may be pinned host memory.
    void copy(Stream stream, Tensor from, Tensor to);

    /// to = from, rounded to nearest, ties to even, where `to` has fewer bits; what F16 cannot hold becomes
    /// infinite. Of the same dtype it is a copy.
    ///
    /// @param from F32, BF16 or F16 `[n]`
    /// @param to F32, BF16 or F16 `[n]`
    void cast(Stream stream, Tensor from, Tensor to);

    /// into += x, in fp32, rounded to nearest, ties to even.
    ///
    /// @param x F32, BF16 or F16 `[n]`
    /// @param into `[n]`, of the dtype of x
    void add(Stream stream, Tensor x, Tensor into);
}
