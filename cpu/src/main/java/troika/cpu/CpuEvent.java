package troika.cpu;

import org.jspecify.annotations.Nullable;
import troika.tensor.TimedEvent;

/// Counts the records of it that were issued and those that were reached.
final class CpuEvent implements TimedEvent {
    private final Progress issued;
    private final Progress reached;
    /// Of the latest record that was reached.
    private volatile long nanos;

    CpuEvent(long spinNanos) {
        issued = new Progress(spinNanos);
        reached = new Progress(spinNanos);
    }

    /// The number of the record that a stream issues now.
    long issue() {
        return issued.advance();
    }

    /// The number of the latest record; 0 for none.
    long issued() {
        return issued.value();
    }

    /// The record of this number is reached.
    void reach(long record) {
        nanos = System.nanoTime();
        reached.advanceTo(record);
    }

    /// A stream that was to reach a record has failed: whoever waits fails too, instead of waiting for ever.
    void fail(Throwable cause) {
        reached.fail(cause);
    }

    /// Waits until the record of this number is reached; returns why it never will be, or null.
    @Nullable
    Throwable await(long record) {
        reached.await(record);
        return reached.value() >= record ? null : reached.failure();
    }

    @Override
    public void synchronize() {
        Throwable cause = await(issued());
        if (cause != null) {
            throw new IllegalStateException("work before an event failed: " + cause.getMessage(), cause);
        }
    }

    @Override
    public double secondsSince(TimedEvent earlier) {
        return (nanos - ((CpuEvent) earlier).nanos) * 1e-9;
    }
}
