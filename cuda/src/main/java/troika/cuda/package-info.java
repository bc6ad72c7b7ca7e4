/// The CUDA device: NVIDIA cards through the driver's API, kernels compiled by NVRTC, matrix products by
/// cuBLASLt and attention by cuDNN.
@NullMarked
package troika.cuda;

import org.jspecify.annotations.NullMarked;
