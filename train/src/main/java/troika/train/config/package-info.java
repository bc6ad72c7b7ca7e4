/// What a run is: DeepSpeed's JSON file, the command line, and the options that follow from both.
@NullMarked
package troika.train.config;

import org.jspecify.annotations.NullMarked;
