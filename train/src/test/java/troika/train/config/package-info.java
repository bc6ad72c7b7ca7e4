@NullMarked
package troika.train.config;

import org.jspecify.annotations.NullMarked;
