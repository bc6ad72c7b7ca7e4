package troika.tensor;

/// An event that tells when it was reached.
public interface TimedEvent extends Event {
    /// Seconds from when `earlier` was last reached to when this one was; both were, and are of the same device.
    double secondsSince(TimedEvent earlier);
}
