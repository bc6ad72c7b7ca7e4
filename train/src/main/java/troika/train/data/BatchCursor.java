package troika.train.data;

import troika.tensor.UserException;

/// Where a run stands in its data: saved in checkpoints, so that a resumed run goes on with the next sample without
/// replaying any.
///
/// @param epoch counted from 0
/// @param nextSample the first sample of the epoch not yet trained on
public record BatchCursor(long epoch, long nextSample) {
    /// The position of a new run.
    public static final BatchCursor START = new BatchCursor(0, 0);

    /// Samples `first` to `first + size - 1`, as [Dataset#read] counts them; `after` is the position behind them.
    public record Batch(long first, int size, BatchCursor after) {}

    public BatchCursor {
        if (epoch < 0 || nextSample < 0) {
            throw new UserException(
                    "The checkpoint's position in the data (epoch %d, sample %d) is negative: it is damaged, take another."
                            .formatted(epoch, nextSample));
        }
    }

    /// The next `size` samples; fewer, but at least one, at the end of an epoch, since no batch crosses into the next.
    ///
    /// @throws UserException where the position lies beyond the data's end: they have changed since it was saved
    public Batch next(Dataset dataset, int size) {
        if (size < 1) {
            throw new IllegalArgumentException("batch size " + size);
        }
        long samples = dataset.samplesPerEpoch();
        if (nextSample >= samples) {
            throw new UserException(
                    "The checkpoint stands at sample %d of an epoch, but the data have only %d: resume with the data it was trained on."
                            .formatted(nextSample, samples));
        }
        int n = (int) Math.min(size, samples - nextSample);
        BatchCursor after =
                nextSample + n == samples ? new BatchCursor(epoch + 1, 0) : new BatchCursor(epoch, nextSample + n);
        return new Batch(epoch * samples + nextSample, n, after);
    }
}
