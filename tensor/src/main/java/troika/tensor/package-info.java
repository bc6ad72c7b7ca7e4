@NullMarked
package troika.tensor;

import org.jspecify.annotations.NullMarked;
