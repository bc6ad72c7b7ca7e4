package troika.ffi;

/// A native function that returned a failure.
public final class NativeException extends RuntimeException {
    private static final long serialVersionUID = 1L;
    private final int status;

    /// @param function the C name
    /// @param status what it returned
    /// @param meaning the status in words, or empty
    public NativeException(String function, int status, String meaning) {
        super(function + " returned " + status + (meaning.isEmpty() ? "" : ": " + meaning));
        this.status = status;
    }

    /// What the function returned.
    public int status() {
        return status;
    }
}
