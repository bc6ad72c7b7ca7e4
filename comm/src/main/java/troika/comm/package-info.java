/// Collectives between the ranks of a group.
@NullMarked
package troika.comm;

import org.jspecify.annotations.NullMarked;
