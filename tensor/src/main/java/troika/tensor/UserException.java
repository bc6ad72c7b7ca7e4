package troika.tensor;

/// A user's mistake: the message is one sentence that says what is wrong, where, and what to do.
public final class UserException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public UserException(String message) {
        super(message);
    }

    public UserException(String message, Throwable cause) {
        super(message, cause);
    }
}
