@NullMarked
package troika.plan;

import org.jspecify.annotations.NullMarked;
