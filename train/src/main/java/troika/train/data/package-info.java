/// From a user's files to batches: documents ({@link troika.train.data.Corpus}), tokens
/// ({@link troika.train.data.TokenCache}), packed sequences ({@link troika.train.data.PackedDataset}) and the
/// position of a run among them ({@link troika.train.data.BatchCursor}).
@NullMarked
package troika.train.data;

import org.jspecify.annotations.NullMarked;
