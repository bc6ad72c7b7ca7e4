@NullMarked
package troika.train;

import org.jspecify.annotations.NullMarked;
