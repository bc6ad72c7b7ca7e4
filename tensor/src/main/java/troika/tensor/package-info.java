/// The contract of a device: tensors in its memory, streams of work, and the kernels that it computes.
@NullMarked
package troika.tensor;

import org.jspecify.annotations.NullMarked;
