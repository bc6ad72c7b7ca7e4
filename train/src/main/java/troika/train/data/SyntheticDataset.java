package troika.train.data;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/// Tokens drawn uniformly from a vocabulary: data without end for benchmarks and tests. A sample is one document, whose
/// labels run on into a token past its end, and the only epoch never ends.
public final class SyntheticDataset implements Dataset {
    private final int vocabularySize;
    private final int sequenceLength;
    private final long seed;

    public SyntheticDataset(int vocabularySize, int sequenceLength, long seed) {
        if (vocabularySize < 1 || sequenceLength < 1) {
            throw new IllegalArgumentException("vocabulary " + vocabularySize + ", sequence length " + sequenceLength);
        }
        this.vocabularySize = vocabularySize;
        this.sequenceLength = sequenceLength;
        this.seed = SplitMix.mix(seed ^ 0x5D1F_0C2B_77A9_E34DL);
    }

    @Override
    public int sequenceLength() {
        return sequenceLength;
    }

    @Override
    public long samplesPerEpoch() {
        return Long.MAX_VALUE;
    }

    @Override
    public void read(long sample, MemorySegment tokens, MemorySegment labels, MemorySegment positions) {
        long stream = SplitMix.at(seed, sample);
        int token = token(stream, 0);
        for (int i = 0; i < sequenceLength; i++) {
            int next = token(stream, i + 1);
            tokens.set(ValueLayout.JAVA_INT_UNALIGNED, 4L * i, token);
            labels.set(ValueLayout.JAVA_INT_UNALIGNED, 4L * i, next);
            positions.set(ValueLayout.JAVA_INT_UNALIGNED, 4L * i, i);
            token = next;
        }
    }

    private int token(long stream, int i) {
        return SplitMix.bounded(SplitMix.at(stream, i), vocabularySize);
    }
}
