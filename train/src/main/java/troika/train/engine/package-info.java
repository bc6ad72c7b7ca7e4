/// The executor of step programs on devices.
@NullMarked
package troika.train.engine;

import org.jspecify.annotations.NullMarked;
