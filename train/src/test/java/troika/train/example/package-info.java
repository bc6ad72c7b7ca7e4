@NullMarked
package troika.train.example;

import org.jspecify.annotations.NullMarked;
