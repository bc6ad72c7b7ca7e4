package troika.train.data;

import java.lang.foreign.MemorySegment;

/// Training sequences by number: any sample can be read at any time, by several threads, and is always the same.
public sealed interface Dataset permits PackedDataset, SyntheticDataset {
    /// A label that counts for nothing: the loss ignores the position.
    int IGNORED = -1;

    /// The tokens of a sample, S.
    int sequenceLength();

    /// The samples of an epoch: sample `e * samplesPerEpoch() + i` is number `i` of epoch `e`. Equal for all epochs.
    long samplesPerEpoch();

    /// Writes a sample into the starts of three segments, int32 `[S]` each in the machine's byte order, allocating
    /// nothing once an epoch's first sample was read.
    ///
    /// @param sample counted over all epochs, from 0
    /// @param tokens the ids
    /// @param labels at each position the document's next token, or [#IGNORED] at the document's last
    /// @param positions counted from 0 within each document, and from 0 again at the sample's start where
    ///     a document continues from another sample: the zeros are the boundaries that attention must not cross
    void read(long sample, MemorySegment tokens, MemorySegment labels, MemorySegment positions);
}
