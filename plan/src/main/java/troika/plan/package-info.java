/// The compiler: from a model, a layout and policies to the programs that ranks execute, as data.
@NullMarked
package troika.plan;

import org.jspecify.annotations.NullMarked;
