package troika.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.VarHandle;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.ffi.NativeMemory;
import troika.tensor.Event;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// A stream of the driver. Captured work is a CUDA graph.
final class CudaStream implements Stream {
    private static final int MOST_ARGUMENTS = 128;
    private static final VarHandle MARK = ValueLayout.JAVA_INT.varHandle();

    private final CudaDevice device;
    private final String name;
    private final long handle;
    private final @Nullable Tensor workspace;
    private final Arena arena = Arena.ofShared();
    private final MemorySegment parameters = arena.allocate(16L * MOST_ARGUMENTS, 16);
    private final List<CudaGraph> graphs = new ArrayList<>();
    /// Pinned memory that holds the latest mark: of all memory that a card writes, it alone can be read
    /// after a failure.
    private final long mark;

    private boolean capturing;
    private boolean closed;

    /// @param workspace scratch memory of its kernels, or null: then it runs none that need some
    CudaStream(CudaDevice device, String name, @Nullable Tensor workspace) {
        this.device = device;
        this.name = name;
        this.workspace = workspace;
        device.bind();
        // A lane without a workspace only moves data, sums it and adds it up: that is short, and other ranks wait
        // for it. Otherwise it would come behind all blocks of the product under way, where that has many.
        handle = workspace == null ? Driver.streamCreateUrgent() : Driver.streamCreate();
        mark = Driver.memHostAlloc(Integer.BYTES);
        NativeMemory.ALL.set(ValueLayout.JAVA_INT, mark, -1);
    }

    String name() {
        return name;
    }

    /// The driver's CUstream.
    long handle() {
        return handle;
    }

    CudaDevice device() {
        return device;
    }

    /// The device address of the scratch memory, aligned to 256 bytes. Work of this stream shares it.
    long workspace() {
        return requireWorkspace().address();
    }

    long workspaceBytes() {
        return requireWorkspace().bytes();
    }

    private Tensor requireWorkspace() {
        if (workspace == null) {
            throw new IllegalStateException("stream " + name + " has no workspace, so it can run no such kernel");
        }
        return workspace;
    }

    /// Host memory for a launch's arguments: `count` addresses, then as many values of 8 bytes.
    MemorySegment parameters(int count) {
        if (count > MOST_ARGUMENTS) {
            throw new IllegalArgumentException(count + " arguments of a kernel");
        }
        return parameters;
    }

    /// Unsupported: a card runs no function of the host. [CudaGroup] enqueues copies and kernels.
    @Override
    public void enqueue(Runnable function) {
        throw new UnsupportedOperationException("stream " + name + " of a card cannot run a function of the host");
    }

    @Override
    public void record(Event event) {
        requireNoCapture("record");
        device.bind();
        Driver.eventRecord(((CudaEvent) event).handle(), handle);
    }

    @Override
    public void await(Event event) {
        requireNoCapture("await");
        device.bind();
        Driver.streamWaitEvent(handle, ((CudaEvent) event).handle());
    }

    @Override
    public void mark(int number) {
        device.function("elementwise", "mark").launch(this, 1, 1, 0, mark, number);
    }

    @Override
    public int marked() {
        if (closed) {
            return -1;
        }
        return (int) MARK.getVolatile(NativeMemory.ALL, mark);
    }

    @Override
    public void beginCapture() {
        requireNoCapture("beginCapture");
        device.bind();
        Driver.streamBeginCapture(handle);
        capturing = true;
    }

    @Override
    public Graph endCapture() {
        if (!capturing) {
            throw new IllegalStateException("stream " + name + ": endCapture without beginCapture");
        }
        capturing = false;
        device.bind();
        long captured = Driver.streamEndCapture(handle);
        try {
            if (Driver.graphNodes(captured) == 0) {
                return new CudaGraph(this, 0);
            }
            CudaGraph graph = new CudaGraph(this, Driver.graphInstantiate(captured));
            graphs.add(graph);
            // Its first launch is then as quick as the others.
            Driver.graphUpload(graph.executable, handle);
            return graph;
        } finally {
            Driver.graphDestroy(captured);
        }
    }

    @Override
    public void launch(Graph graph) {
        requireNoCapture("launch");
        CudaGraph cudaGraph = (CudaGraph) graph;
        if (cudaGraph.stream != this) {
            // Its kernels use that stream's workspace.
            throw new IllegalArgumentException(
                    "a graph of stream " + cudaGraph.stream.name + " cannot be launched on stream " + name);
        }
        if (cudaGraph.executable != 0) {
            device.bind();
            Driver.graphLaunch(cudaGraph.executable, handle);
        }
    }

    @Override
    public void synchronize() {
        requireNoCapture("synchronize");
        device.bind();
        try {
            Driver.streamSynchronize(handle);
        } catch (CudaException e) {
            throw new CudaException("stream " + name + " failed: " + e.getMessage(), e);
        }
    }

    boolean closed() {
        return closed;
    }

    void requireNoCapture(String call) {
        if (closed) {
            throw new IllegalStateException("stream " + name + " is closed");
        }
        if (capturing) {
            throw new IllegalStateException("stream " + name + ": " + call + " inside a capture");
        }
    }

    /// Waits for its work and gives everything back, also after a failure, which those who synchronized
    /// know of.
    @Override
    public void close() {
        if (closed) {
            return;
        }
        closed = true;
        device.release(() -> {
            if (capturing) {
                Driver.graphDestroy(Driver.streamEndCapture(handle));
            }
        });
        device.release(() -> Driver.streamSynchronize(handle));
        for (CudaGraph graph : graphs) {
            device.release(() -> Driver.graphExecDestroy(graph.executable));
        }
        device.release(() -> Driver.streamDestroy(handle));
        device.release(() -> Driver.memFreeHost(mark));
        arena.close();
        device.closed(this);
    }

    private static final class CudaGraph implements Graph {
        private final CudaStream stream;
        /// The driver's; 0 where nothing was captured.
        private final long executable;

        private CudaGraph(CudaStream stream, long executable) {
            this.stream = stream;
            this.executable = executable;
        }
    }
}
