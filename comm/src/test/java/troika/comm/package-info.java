@NullMarked
package troika.comm;

import org.jspecify.annotations.NullMarked;
