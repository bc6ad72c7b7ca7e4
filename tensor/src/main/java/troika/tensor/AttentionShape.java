package troika.tensor;

/// The sizes of an attention call. Scores are scaled by 1 / √headSize.
///
/// @param batch sequences
/// @param sequence tokens of each
/// @param heads query heads
/// @param keyValueHeads a divisor of heads
/// @param headSize the size of a query, key or value head
public record AttentionShape(int batch, int sequence, int heads, int keyValueHeads, int headSize) {
    public float scale() {
        return (float) (1 / Math.sqrt(headSize));
    }

    /// The width of a row of fused queries, keys and values.
    public int qkvColumns() {
        return (heads + 2 * keyValueHeads) * headSize;
    }
}
