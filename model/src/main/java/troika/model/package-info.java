@NullMarked
package troika.model;

import org.jspecify.annotations.NullMarked;
