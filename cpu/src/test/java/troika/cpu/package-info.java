@NullMarked
package troika.cpu;

import org.jspecify.annotations.NullMarked;
