package troika.train.data;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.concurrent.locks.ReentrantLock;
import org.jspecify.annotations.Nullable;
import troika.tensor.UserException;

/// Documents laid end to end and cut into sequences of S tokens without padding; a sequence may hold several documents
/// or a piece of one, and nothing ever crosses from one document to the next: neither labels nor positions.
public final class PackedDataset implements Dataset {
    private final DocumentSet documents;
    private final int sequenceLength;
    private final boolean shuffled;
    private final long seed;
    private final long samplesPerEpoch;
    private final ReentrantLock building = new ReentrantLock();
    /// Ranks pass from one epoch into the next at different times, so two orders are kept.
    private volatile @Nullable Order current;

    private volatile @Nullable Order previous;

    /// An epoch's documents in order, `documents[k]` starting at the epoch's token `starts[k]`; one more is the end.
    private record Order(long epoch, int[] documents, long[] starts) {}

    private PackedDataset(
            DocumentSet documents, int sequenceLength, boolean shuffled, long seed, long samplesPerEpoch) {
        this.documents = documents;
        this.sequenceLength = sequenceLength;
        this.shuffled = shuffled;
        this.seed = seed;
        this.samplesPerEpoch = samplesPerEpoch;
    }

    /// For training: documents, and the sequences cut from them, in orders that (seed, epoch) decide. The up to S - 1
    /// tokens that fill no sequence are
    /// other ones every epoch.
    ///
    /// @throws UserException where the data are shorter than one sequence
    public static PackedDataset shuffled(DocumentSet documents, int sequenceLength, long seed) {
        long samples = documents.tokens() / sequenceLength;
        if (samples == 0) {
            throw new UserException(
                    "The data have only %d tokens, less than one sequence of %d: give more data or a shorter sequence length."
                            .formatted(documents.tokens(), sequenceLength));
        }
        return new PackedDataset(documents, sequenceLength, true, seed, samples);
    }

    /// For evaluation: documents as they lie, every token once. The last sequence is filled up by a document of
    /// end-of-sequence tokens, all of its labels ignored.
    public static PackedDataset sequential(DocumentSet documents, int sequenceLength) {
        long samples = Math.ceilDiv(documents.tokens(), sequenceLength);
        return new PackedDataset(documents, sequenceLength, false, 0, samples);
    }

    @Override
    public int sequenceLength() {
        return sequenceLength;
    }

    @Override
    public long samplesPerEpoch() {
        return samplesPerEpoch;
    }

    @Override
    public void read(long sample, MemorySegment tokens, MemorySegment labels, MemorySegment positions) {
        Order order = order(shuffled ? sample / samplesPerEpoch : 0);
        long at = place(sample) * sequenceLength;
        int k = find(order.starts, at);
        int filled = 0;
        while (filled < sequenceLength) {
            if (k == order.documents.length) {
                pad(filled, tokens, labels, positions);
                return;
            }
            int document = order.documents[k];
            long from = documents.start(document) + (at + filled - order.starts[k]);
            long end = documents.end(document);
            int n = (int) Math.min(sequenceLength - filled, end - from);
            copy(from, end, n, 4L * filled, tokens, labels, positions);
            filled += n;
            k++;
        }
    }

    /// Which of the sequences that are cut from its epoch's documents, in their order, a sample is.
    long place(long sample) {
        long index = sample % samplesPerEpoch;
        // Neighbours come from one document; a batch should not.
        return shuffled ? Shuffle.at(index, samplesPerEpoch, SplitMix.at(seed, sample / samplesPerEpoch)) : index;
    }

    private void copy(
            long from,
            long end,
            int n,
            long offset,
            MemorySegment tokens,
            MemorySegment labels,
            MemorySegment positions) {
        TokenCache cache = documents.cache();
        int token = cache.token(from);
        for (int i = 0; i < n; i++) {
            int next = from + i + 1 < end ? cache.token(from + i + 1) : IGNORED;
            tokens.set(ValueLayout.JAVA_INT_UNALIGNED, offset + 4L * i, token);
            labels.set(ValueLayout.JAVA_INT_UNALIGNED, offset + 4L * i, next);
            positions.set(ValueLayout.JAVA_INT_UNALIGNED, offset + 4L * i, i);
            token = next;
        }
    }

    private void pad(int filled, MemorySegment tokens, MemorySegment labels, MemorySegment positions) {
        for (int i = filled; i < sequenceLength; i++) {
            tokens.set(ValueLayout.JAVA_INT_UNALIGNED, 4L * i, documents.cache().eos());
            labels.set(ValueLayout.JAVA_INT_UNALIGNED, 4L * i, IGNORED);
            positions.set(ValueLayout.JAVA_INT_UNALIGNED, 4L * i, i - filled);
        }
    }

    /// The last k with `starts[k] <= at`.
    private static int find(long[] starts, long at) {
        int low = 0;
        int high = starts.length - 1;
        while (high - low > 1) {
            int middle = (low + high) >>> 1;
            if (starts[middle] <= at) {
                low = middle;
            } else {
                high = middle;
            }
        }
        return low;
    }

    private Order order(long epoch) {
        Order found = kept(epoch);
        if (found != null) {
            return found;
        }
        building.lock();
        try {
            found = kept(epoch);
            if (found == null) {
                found = build(epoch);
                previous = current;
                current = found;
            }
            return found;
        } finally {
            building.unlock();
        }
    }

    private @Nullable Order kept(long epoch) {
        Order order = current;
        if (order != null && order.epoch == epoch) {
            return order;
        }
        order = previous;
        return order != null && order.epoch == epoch ? order : null;
    }

    private Order build(long epoch) {
        int n = documents.size();
        int[] order = new int[n];
        long stream = SplitMix.at(SplitMix.mix(seed), epoch);
        for (int i = 0; i < n; i++) { // Fisher and Yates, from the inside out
            int j = shuffled ? SplitMix.bounded(SplitMix.at(stream, i), i + 1) : i;
            order[i] = order[j];
            order[j] = i;
        }
        long[] starts = new long[n + 1];
        for (int k = 0; k < n; k++) {
            starts[k + 1] = starts[k] + documents.end(order[k]) - documents.start(order[k]);
        }
        return new Order(epoch, order, starts);
    }
}
