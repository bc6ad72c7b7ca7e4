@NullMarked
package troika.ffi;

import org.jspecify.annotations.NullMarked;
