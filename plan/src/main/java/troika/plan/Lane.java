package troika.plan;

/// A queue of a rank's instructions, which run in order; different lanes run at the same time.
public enum Lane {
    COMPUTE,
    COMMUNICATION,
    UPLOAD,
    DOWNLOAD
}
