@NullMarked
package troika.graph;

import org.jspecify.annotations.NullMarked;
