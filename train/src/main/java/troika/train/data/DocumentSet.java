package troika.train.data;

import java.util.Comparator;
import java.util.stream.IntStream;
import troika.tensor.UserException;

/// Some documents of a [TokenCache], or all of them; at most one document may be cut short.
public final class DocumentSet {
    private final TokenCache cache;
    private final int[] documents;
    /// Of the document `cut` only the tokens from `cutStart` up to `cutEnd` of the cache belong; -1 for no document.
    private final int cut;
    private final long cutStart;
    private final long cutEnd;
    private final long tokens;

    private DocumentSet(TokenCache cache, int[] documents) {
        this(cache, documents, -1, 0, 0);
    }

    private DocumentSet(TokenCache cache, int[] documents, int cut, long cutStart, long cutEnd) {
        this.cache = cache;
        this.documents = documents;
        this.cut = cut;
        this.cutStart = cutStart;
        this.cutEnd = cutEnd;
        long sum = 0;
        for (int i = 0; i < documents.length; i++) {
            sum += end(i) - start(i);
        }
        tokens = sum;
    }

    static DocumentSet all(TokenCache cache) {
        return new DocumentSet(cache, IntStream.range(0, cache.documents()).toArray());
    }

    /// Training and held-out documents, without a token in common.
    public record Split(DocumentSet training, DocumentSet heldOut) {}

    /// Holds out about 1 % of the tokens for evaluation: at least one sequence, at most about `maxTokens`.
    /// Documents are taken in the order of a hash of their names, so the choice does not depend on their order or
    /// the seed; ones longer than the whole share are passed over. Where that leaves too little, as with a single
    /// document, the share is the end of the longest document instead, and all documents are trained on, that one
    /// without its end.
    ///
    /// @throws UserException where the data are shorter than four sequences
    public static Split split(TokenCache cache, int sequenceLength, long maxTokens) {
        if (cache.tokens() / 4 < sequenceLength) {
            throw new UserException(
                    "The data have only %d tokens, too few to hold some out for evaluation at sequence length %d: give more data, a shorter sequence length or --eval-data."
                            .formatted(cache.tokens(), sequenceLength));
        }
        long share = Math.max(sequenceLength, Math.min(maxTokens, cache.tokens() / 100));
        int n = cache.documents();
        boolean[] held = new boolean[n];
        long sum = 0;
        int longest = 0;
        int[] order = IntStream.range(0, n)
                .boxed()
                .sorted(Comparator.comparingLong(cache::nameHash).thenComparing(d -> d))
                .mapToInt(d -> d)
                .toArray();
        for (int d : order) {
            long length = cache.start(d + 1) - cache.start(d);
            if (length > cache.start(longest + 1) - cache.start(longest)) {
                longest = d;
            }
            if (sum < share && length <= share) {
                held[d] = true;
                sum += length;
            }
        }
        if (sum < sequenceLength) {
            long start = cache.start(longest);
            long end = cache.start(longest + 1);
            return new Split(
                    new DocumentSet(cache, IntStream.range(0, n).toArray(), longest, start, end - share),
                    new DocumentSet(cache, new int[] {longest}, longest, end - share, end));
        }
        return new Split(
                new DocumentSet(
                        cache, IntStream.range(0, n).filter(d -> !held[d]).toArray()),
                new DocumentSet(
                        cache, IntStream.range(0, n).filter(d -> held[d]).toArray()));
    }

    TokenCache cache() {
        return cache;
    }

    /// The number of documents.
    public int size() {
        return documents.length;
    }

    /// The number of tokens, the end-of-sequence ones included.
    public long tokens() {
        return tokens;
    }

    /// Where the tokens of the set's document `i` start in the cache.
    long start(int i) {
        return documents[i] == cut ? cutStart : cache.start(documents[i]);
    }

    long end(int i) {
        return documents[i] == cut ? cutEnd : cache.start(documents[i] + 1);
    }
}
