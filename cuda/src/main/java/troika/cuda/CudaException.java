package troika.cuda;

import troika.tensor.DeviceException;

/// A call of the driver, or of one of NVIDIA's libraries, that returned a failure. The message names the
/// function.
final class CudaException extends DeviceException {
    static final int INVALID_VALUE = 1;
    static final int OUT_OF_MEMORY = 2;
    static final int NO_DEVICE = 100;
    static final int OPERATING_SYSTEM = 304;

    private static final long serialVersionUID = 1L;
    private final int status;

    /// @param status what the function returned
    CudaException(String message, int status) {
        super(message);
        this.status = status;
    }

    CudaException(String message, CudaException cause) {
        super(message, cause);
        status = cause.status;
    }

    /// What the function returned.
    int status() {
        return status;
    }
}
