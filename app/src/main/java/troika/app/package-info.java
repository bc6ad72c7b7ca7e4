/// The `troika` command.
@NullMarked
package troika.app;

import org.jspecify.annotations.NullMarked;
