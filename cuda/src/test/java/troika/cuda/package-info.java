@NullMarked
package troika.cuda;

import org.jspecify.annotations.NullMarked;
