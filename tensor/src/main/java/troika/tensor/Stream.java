package troika.tensor;

import org.jspecify.annotations.Nullable;

/// A queue of work that a device runs in order, asynchronously to the thread that enqueues it. One thread
/// at a time may use it. Work that fails stops the stream: the next [#synchronize] throws the failure.
public interface Stream extends AutoCloseable {
    /// Enqueues a function of the host, such as an in-process collective. It runs on the stream's own thread.
    void enqueue(Runnable function);

    /// Marks this point: `event` is reached when everything enqueued before is done.
    void record(Event event);

    /// Lets later work of this stream start only when the latest [#record] of `event` that was
    /// issued before this call is reached (as CUDA has it: a record issued later does not count; no
    /// record at all is no wait).
    void await(Event event);

    /// Notes, once everything enqueued before is done, that this point was reached: see [#marked]. It may be
    /// captured, and costs about 2 µs.
    ///
    /// @param number of the point, from 0
    void mark(int number);

    /// The latest [#mark] that was reached, or -1. Also to be asked when work has failed, by any thread.
    int marked();

    /// Work enqueued from here to [#endCapture] is not run but kept, to be launched again and again at the same
    /// addresses. A capture may time algorithms on the memory of the tensors it is given and leaves zeros
    /// there: it comes before anything is loaded.
    void beginCapture();

    /// Ends a capture and returns what was kept.
    Graph endCapture();

    /// Enqueues captured work. Allocates nothing.
    void launch(Graph graph);

    /// What has stopped the stream, or null where no failure is known; without waiting. Any thread may ask.
    default @Nullable Throwable failure() {
        return null;
    }

    /// Blocks until all enqueued work is done; throws what failed.
    void synchronize();

    @Override
    void close();

    /// Captured work of one stream.
    interface Graph {}
}
