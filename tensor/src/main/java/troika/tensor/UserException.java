package troika.tensor;

/// A user's mistake, or a limit of the machine: the message is one sentence that says what was
/// wrong, where, and what to do. The `troika` command prints it and exits with status 2.
public final class UserException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public UserException(String message) {
        super(message);
    }

    public UserException(String message, Throwable cause) {
        super(message, cause);
    }
}
