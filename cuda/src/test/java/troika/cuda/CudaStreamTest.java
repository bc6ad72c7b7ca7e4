package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.management.ManagementFactory;
import java.util.function.IntConsumer;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.Timeout;
import troika.ffi.NativeMemory;
import troika.tensor.DType;
import troika.tensor.Event;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// What a card's streams must hold, without any kernel of ours.
@Tag("gpu")
@Timeout(60)
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaStreamTest {
    private static final long BALLAST_BYTES = 256L << 20;

    private final CudaDevice device = Cards.open();
    private final Memory ballast = device.allocate("ballast", BALLAST_BYTES);
    private final Memory memory = device.allocate("m", 1 << 20);
    private final Memory host = device.allocateHost("h", 1 << 20);

    @AfterAll
    void close() {
        device.close();
    }

    private CudaStream stream(String name) {
        return (CudaStream) device.stream(name, null);
    }

    private Tensor number(int index) {
        return memory.tensor(4L * index, DType.I32, Shape.of(1));
    }

    private void set(CudaStream stream, int index, int value) {
        Driver.memsetD32Async(number(index).address(), value, 1, stream.handle());
    }

    private void copy(CudaStream stream, int from, int to) {
        Driver.memcpyAsync(number(to).address(), number(from).address(), 4, stream.handle());
    }

    /// Some milliseconds of work.
    private void work(CudaStream stream) {
        for (int i = 0; i < 100; i++) {
            Driver.memsetD8Async(ballast.address(), (byte) i, BALLAST_BYTES, stream.handle());
        }
    }

    private int get(int index) {
        int[] value = new int[1];
        device.read(number(index), MemorySegment.ofArray(value));
        return value[0];
    }

    @Test
    void marksAreReachedInOrderAlsoCaptured() {
        try (CudaStream a = stream("a")) {
            assertThat(a.marked()).isEqualTo(-1);
            a.mark(3);
            a.synchronize();
            assertThat(a.marked()).isEqualTo(3);
            a.beginCapture();
            work(a);
            a.mark(7);
            Stream.Graph graph = a.endCapture();
            assertThat(a.marked()).isEqualTo(3);
            a.launch(graph);
            a.synchronize();
            assertThat(a.marked()).isEqualTo(7);
        }
    }

    @Test
    void aStreamIsAQueueBesideTheOthers() {
        try (CudaStream a = stream("a");
                CudaStream b = stream("b")) {
            set(a, 0, 1);
            a.synchronize();
            work(a);
            set(a, 0, 2);
            copy(b, 0, 1);
            b.synchronize();
            a.synchronize();
            assertThat(get(1)).as("b does not wait for a").isEqualTo(1);
            assertThat(get(0)).isEqualTo(2);
        }
    }

    @Test
    void anAwaitWaitsForTheRecordsIssuedBeforeItOnly() {
        Event event = device.event();
        event.synchronize();
        try (CudaStream a = stream("a");
                CudaStream b = stream("b")) {
            b.await(event);
            b.synchronize();
            set(a, 0, 1);
            work(a);
            set(a, 0, 2);
            a.record(event);
            b.await(event);
            copy(b, 0, 1);
            // Enough that b has copied long before.
            work(a);
            work(a);
            set(a, 0, 3);
            a.record(event);
            b.synchronize();
            assertThat(get(1)).isEqualTo(2);
            event.synchronize();
            assertThat(get(0)).isEqualTo(3);
        }
    }

    @Test
    void aCaptureRunsOnlyWhenLaunched() {
        try (CudaStream stream = stream("s");
                CudaStream other = stream("t")) {
            Event event = device.event();
            set(stream, 0, 1);
            set(stream, 1, 5);
            set(stream, 2, 0);
            stream.beginCapture();
            assertThat(Driver.streamIsCapturing(stream.handle())).isTrue();
            copy(stream, 0, 2);
            copy(stream, 1, 0);
            assertThatThrownBy(() -> stream.record(event)).hasMessageContaining("capture");
            assertThatThrownBy(() -> stream.await(event)).hasMessageContaining("capture");
            assertThatThrownBy(stream::synchronize).hasMessageContaining("capture");
            assertThatThrownBy(stream::beginCapture).hasMessageContaining("capture");
            // As timing does: work of other streams and allocations are allowed meanwhile.
            set(other, 3, 7);
            other.synchronize();
            device.free(device.allocate("meanwhile", 4096));
            assertThat(get(3)).isEqualTo(7);
            Stream.Graph graph = stream.endCapture();
            stream.synchronize();
            assertThat(get(0)).isEqualTo(1);
            assertThat(get(2)).isZero();
            stream.launch(graph);
            stream.synchronize();
            // In the order of capture: the old value first.
            assertThat(get(2)).isEqualTo(1);
            assertThat(get(0)).isEqualTo(5);
            stream.launch(graph);
            stream.synchronize();
            assertThat(get(2)).isEqualTo(5);
            assertThatThrownBy(() -> other.launch(graph)).isInstanceOf(IllegalArgumentException.class);
            assertThatThrownBy(stream::endCapture).isInstanceOf(IllegalStateException.class);
        }
    }

    @Test
    void anEmptyCaptureIsAGraphThatDoesNothing() {
        try (CudaStream stream = stream("s")) {
            stream.beginCapture();
            Stream.Graph graph = stream.endCapture();
            stream.launch(graph);
            stream.synchronize();
        }
    }

    @Test
    void aStreamClosedInsideACaptureIsClosed() {
        CudaStream stream = stream("s");
        stream.beginCapture();
        set(stream, 0, 9);
        stream.close();
        stream.close();
        assertThatThrownBy(stream::synchronize).hasMessageContaining("stream s is closed");
        try (CudaStream next = stream("t")) {
            set(next, 0, 4);
            next.synchronize();
        }
        assertThat(get(0)).isEqualTo(4);
    }

    @Test
    void launchesAllocateNothing() {
        com.sun.management.ThreadMXBean threads = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
        try (CudaStream stream = stream("s")) {
            Event event = device.event();
            stream.beginCapture();
            set(stream, 0, 1);
            Stream.Graph graph = stream.endCapture();
            IntConsumer step = i -> {
                stream.launch(graph);
                stream.record(event);
                stream.await(event);
                stream.synchronize();
                event.synchronize();
            };
            long natives = NativeMemory.allocations();
            long fewest = Long.MAX_VALUE;
            for (int round = 0; round < 100 && fewest > 0; round++) {
                long before = threads.getCurrentThreadAllocatedBytes();
                for (int i = 0; i < 100; i++) {
                    step.accept(i);
                }
                fewest = Math.min(fewest, threads.getCurrentThreadAllocatedBytes() - before);
            }
            assertThat(fewest).as("bytes in 100 launches").isLessThanOrEqualTo(1000);
            assertThat(NativeMemory.allocations()).isEqualTo(natives);
        }
    }

    @Test
    void pinnedMemoryIsCopiedInTheOrderOfTheStream() {
        MemorySegment at = MemorySegment.ofAddress(host.address()).reinterpret(host.bytes());
        for (int i = 0; i < 1000; i++) {
            at.setAtIndex(ValueLayout.JAVA_INT, i, i * 31);
        }
        try (CudaStream stream = stream("s")) {
            Event event = device.event();
            Driver.memcpyAsync(memory.address() + 4096, host.address(), 4000, stream.handle());
            Driver.memcpyAsync(host.address() + 8192, memory.address() + 4096, 4000, stream.handle());
            stream.record(event);
            event.synchronize();
        }
        for (int i = 0; i < 1000; i++) {
            assertThat(at.getAtIndex(ValueLayout.JAVA_INT, 2048 + i)).isEqualTo(i * 31);
        }
    }

    @Test
    void timingEventsMeasureWork() {
        try (CudaStream stream = stream("s")) {
            long from = Driver.eventCreate(true);
            long to = Driver.eventCreate(true);
            Driver.eventRecord(from, stream.handle());
            work(stream);
            Driver.eventRecord(to, stream.handle());
            Driver.eventSynchronize(to);
            // 25 GiB of writes, by cards of 0.2 to 20 TB/s.
            assertThat(Driver.eventElapsed(from, to)).isBetween(1f, 150f);
            Driver.eventDestroy(from);
            Driver.eventDestroy(to);
        }
    }

    @Test
    void hostFunctionsAreRefusedInOneSentence() {
        try (CudaStream stream = stream("s")) {
            assertThatThrownBy(() -> stream.enqueue(() -> {}))
                    .isInstanceOf(UnsupportedOperationException.class)
                    .hasMessageContaining("stream s");
        }
    }

    @Test
    void onlyAStreamWithAWorkspaceHasOne() {
        Memory scratch = device.allocate("w", device.workspaceBytes());
        Tensor workspace = scratch.tensor(0, DType.F32, Shape.of(scratch.bytes() / 4));
        try (CudaStream with = (CudaStream) device.stream("with", workspace);
                CudaStream without = stream("without")) {
            assertThat(with.workspace()).isEqualTo(scratch.address());
            assertThat(with.workspaceBytes()).isEqualTo(device.workspaceBytes());
            assertThatThrownBy(without::workspace).hasMessageContaining("stream without has no workspace");
            assertThatThrownBy(() -> device.stream("small", memory.tensor(0, DType.F32, Shape.of(4))))
                    .hasMessageContaining("workspace of stream small");
        }
        device.free(scratch);
    }

    @Test
    void aFailureNamesItsCall() {
        try (Arena arena = Arena.ofConfined()) {
            long nowhere = arena.allocate(64).address();
            assertThatThrownBy(() -> Driver.memFree(nowhere))
                    .isInstanceOf(CudaException.class)
                    .hasMessageStartingWith("cuMemFree_v2 returned 1 (CUDA_ERROR_INVALID_VALUE: ");
        }
    }
}
