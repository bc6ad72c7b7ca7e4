/// Training as a library ([troika.train.Trainer]), and generation ([troika.train.Generator]).
@NullMarked
package troika.train;

import org.jspecify.annotations.NullMarked;
