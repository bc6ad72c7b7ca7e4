/// The CPU device: matrix products by oneDNN, all other kernels by the Vector API.
@NullMarked
package troika.cpu;

import org.jspecify.annotations.NullMarked;
