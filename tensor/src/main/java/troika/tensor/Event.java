package troika.tensor;

/// A point in a stream's work that other streams can wait for: see [Stream#record] and [Stream#await].
public interface Event {
    /// Blocks the calling thread until all work recorded so far is done; returns at once where none was recorded.
    void synchronize();
}
