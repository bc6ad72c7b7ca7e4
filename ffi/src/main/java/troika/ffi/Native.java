package troika.ffi;

/// What failed calls of native functions throw.
public final class Native {
    private Native() {}

    /// What to throw for a Throwable of MethodHandle.invokeExact: errors and unchecked exceptions as they are.
    public static RuntimeException failed(String function, Throwable cause) {
        if (cause instanceof Error error) {
            throw error;
        }
        if (cause instanceof RuntimeException exception) {
            return exception;
        }
        return new IllegalStateException(function + " failed: " + cause, cause);
    }

    /// Throws a [NativeException] that names the function unless `status` is 0, which is success in C.
    public static void check(String function, int status) {
        if (status != 0) {
            throw new NativeException(function, status, "");
        }
    }
}
