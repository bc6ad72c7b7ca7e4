/// Calls into native libraries by the JDK's foreign-function API, and native memory.
@NullMarked
package troika.ffi;

import org.jspecify.annotations.NullMarked;
