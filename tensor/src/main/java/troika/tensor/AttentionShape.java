package troika.tensor;

/// The sizes of an attention call. Scores are scaled by 1 / √headSize.
///
/// @param batch sequences
/// @param sequence tokens of each
/// @param heads query heads
/// @param keyValueHeads a divisor of heads
/// @param headSize the size of a query, key or value head
/// @param packed whether documents may start anywhere in a sequence, as positions say; otherwise each
/// sequence is one document, and a device need not read the positions
public record AttentionShape(int batch, int sequence, int heads, int keyValueHeads, int headSize, boolean packed) {
    public float scale() {
        return (float) (1 / Math.sqrt(headSize));
    }

    /// The width of a row of fused queries, keys and values.
    public int qkvColumns() {
        return (heads + 2 * keyValueHeads) * headSize;
    }
}
