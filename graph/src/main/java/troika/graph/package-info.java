/// Models as blocks: their forward traced into ops, on shapes alone, and the backward derived from it.
@NullMarked
package troika.graph;

import org.jspecify.annotations.NullMarked;
