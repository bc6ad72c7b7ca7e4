package troika.tensor;

/// A failure of a device or of its driver, which may show long after the work that caused it was enqueued.
public class DeviceException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public DeviceException(String message) {
        super(message);
    }

    public DeviceException(String message, Throwable cause) {
        super(message, cause);
    }
}
