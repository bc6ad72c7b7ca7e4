/// Directories on disk that are either whole or not there: what a run saves, and how it is found again.
@NullMarked
package troika.train.checkpoint;

import org.jspecify.annotations.NullMarked;
