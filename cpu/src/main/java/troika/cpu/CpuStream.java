package troika.cpu;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.tensor.Event;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// A queue with a thread of its own. Entries lie in a ring of fixed size, so that enqueueing allocates nothing; a full
/// ring makes the producer wait.
final class CpuStream implements Stream {
    private static final int CAPACITY = 1024;

    private final String name;
    private final @Nullable Tensor workspace;
    private final Workers workers;
    private final @Nullable CpuWorkers owned;

    private final @Nullable Runnable[] functions = new Runnable[CAPACITY];
    private final @Nullable CpuEvent[] events = new CpuEvent[CAPACITY];
    // The record of the event in the same place: positive to reach it, negative to wait for it.
    private final long[] records = new long[CAPACITY];
    private final Progress issued;
    private final Progress done;
    private volatile @Nullable Throwable failure;
    private volatile boolean closed;
    private volatile int marked = -1;
    private @Nullable List<Runnable> capture;

    private final List<Map<MatMul, MatMul.Call>> calls = new ArrayList<>();

    /// @param workers the threads of its kernels where it has a workspace, otherwise null: then it runs none
    CpuStream(String name, @Nullable Tensor workspace, @Nullable CpuWorkers workers, long spinNanos) {
        this.name = name;
        this.workspace = workspace;
        this.owned = workers;
        this.workers = workers != null ? workers : new CpuWorkers(name, 1, spinNanos);
        issued = new Progress(spinNanos);
        done = new Progress(spinNanos);
        for (int i = 0; i < this.workers.threads(); i++) {
            calls.add(new HashMap<>());
        }
        Thread.ofPlatform().daemon().name(name).start(this::run);
    }

    /// The threads that share this stream's kernels.
    Workers workers() {
        return workers;
    }

    /// Scratch memory of the kernel that runs.
    Tensor workspace() {
        if (workspace == null) {
            throw new IllegalStateException("stream " + name + " has no workspace, so it can run no such kernel");
        }
        return workspace;
    }

    /// The bytes of the workspace that one of the worker threads has for itself.
    long slotBytes() {
        return workspace().bytes() / workers.threads() / 4096 * 4096;
    }

    /// The first byte of the part of the workspace that belongs to thread `slot`.
    long slotAddress(int slot) {
        return workspace().address() + slot * slotBytes();
    }

    /// What thread `slot` needs to run a product with `scratch` bytes into its slot; made once for this stream.
    MatMul.Call call(MatMul product, int slot) {
        if (product.scratchBytes() > MatMul.SCRATCH_BYTES) {
            throw new IllegalStateException(
                    "a product needs " + product.scratchBytes() + " bytes of scratch memory: " + product.key);
        }
        return calls.get(slot).computeIfAbsent(product, p -> new MatMul.Call(p, slotAddress(slot)));
    }

    @Override
    public void enqueue(Runnable function) {
        if (capture != null) {
            capture.add(function);
        } else {
            put(function, null, 0);
        }
    }

    @Override
    public void record(Event event) {
        requireNoCapture("record");
        CpuEvent cpuEvent = (CpuEvent) event;
        put(null, cpuEvent, cpuEvent.issue());
    }

    @Override
    public void await(Event event) {
        requireNoCapture("await");
        CpuEvent cpuEvent = (CpuEvent) event;
        long record = cpuEvent.issued();
        if (record > 0) {
            put(null, cpuEvent, -record);
        }
    }

    @Override
    public void mark(int number) {
        enqueue(() -> marked = number);
    }

    @Override
    public int marked() {
        return marked;
    }

    @Override
    public void beginCapture() {
        requireNoCapture("beginCapture");
        capture = new ArrayList<>();
    }

    @Override
    public Graph endCapture() {
        if (capture == null) {
            throw new IllegalStateException("stream " + name + ": endCapture without beginCapture");
        }
        Graph graph = new CpuGraph(this, capture.toArray(new Runnable[0]));
        capture = null;
        return graph;
    }

    @Override
    public void launch(Graph graph) {
        requireNoCapture("launch");
        CpuGraph cpuGraph = (CpuGraph) graph;
        if (cpuGraph.stream != this) {
            // Its functions hold this stream's workspace and workers.
            throw new IllegalArgumentException(
                    "a graph of stream " + cpuGraph.stream.name + " cannot be launched on stream " + name);
        }
        put(cpuGraph, null, 0);
    }

    private void requireNoCapture(String call) {
        if (capture != null) {
            throw new IllegalStateException("stream " + name + ": " + call + " inside a capture");
        }
    }

    private void put(@Nullable Runnable function, @Nullable CpuEvent event, long record) {
        if (closed) {
            throw new IllegalStateException("stream " + name + " is closed");
        }
        long index = issued.value();
        done.await(index - CAPACITY + 1);
        int place = (int) (index % CAPACITY);
        functions[place] = function;
        events[place] = event;
        records[place] = record;
        issued.advance();
    }

    private void run() {
        OneDnn.singleThreaded();
        for (long index = 0; ; index++) {
            issued.await(index + 1);
            int place = (int) (index % CAPACITY);
            Runnable function = functions[place];
            CpuEvent event = events[place];
            if (function == null && event == null) {
                done.advance();
                return;
            }
            functions[place] = null;
            events[place] = null;
            try {
                step(function, event, records[place]);
            } catch (Throwable e) {
                failure = e;
                if (event != null) {
                    event.fail(e);
                }
            }
            done.advance();
        }
    }

    private void step(@Nullable Runnable function, @Nullable CpuEvent event, long record) throws Throwable {
        Throwable failed = failure;
        if (event != null && record > 0) {
            // Nothing is reached any more after a failure, and those who wait elsewhere must learn it.
            if (failed != null) {
                event.fail(failed);
            } else {
                event.reach(record);
            }
        } else if (failed == null && event != null) {
            Throwable cause = event.await(-record);
            if (cause != null) {
                failure = cause;
            }
        } else if (failed == null && function != null) {
            function.run();
        }
    }

    @Override
    public @Nullable Throwable failure() {
        return failure;
    }

    @Override
    public void synchronize() {
        requireNoCapture("synchronize");
        done.await(issued.value());
        Throwable cause = failure;
        if (cause != null) {
            throw new IllegalStateException("stream " + name + " failed: " + cause.getMessage(), cause);
        }
    }

    @Override
    public void close() {
        if (closed) {
            return;
        }
        capture = null;
        put(null, null, 0);
        closed = true;
        done.await(issued.value());
        if (owned != null) {
            owned.close();
        }
        for (Map<MatMul, MatMul.Call> slot : calls) {
            slot.values().forEach(MatMul.Call::close);
        }
    }

    private static final class CpuGraph implements Graph, Runnable {
        private final CpuStream stream;
        private final Runnable[] functions;

        private CpuGraph(CpuStream stream, Runnable[] functions) {
            this.stream = stream;
            this.functions = functions;
        }

        @Override
        public void run() {
            for (Runnable function : functions) {
                function.run();
            }
        }
    }
}
