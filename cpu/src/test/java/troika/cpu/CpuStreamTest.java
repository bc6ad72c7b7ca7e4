package troika.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.ServiceLoader;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.function.IntConsumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import troika.ffi.NativeMemory;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.tensor.DeviceProvider;
import troika.tensor.Event;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;
import troika.tensor.UserException;

@Timeout(60)
class CpuStreamTest {
    private final CpuDevice device = new CpuDevice(0, 2, 2_000);

    private static void block(CountDownLatch latch) {
        try {
            assertThat(latch.await(30, TimeUnit.SECONDS)).isTrue();
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    @Test
    void marksAreReachedInOrderAndNotAfterAFailure() {
        Device device = new CpuDeviceProvider().open("", true).getFirst();
        try (Stream stream = device.stream("marks", null)) {
            assertThat(stream.marked()).isEqualTo(-1);
            stream.beginCapture();
            stream.mark(3);
            Stream.Graph graph = stream.endCapture();
            stream.synchronize();
            assertThat(stream.marked()).isEqualTo(-1);
            stream.launch(graph);
            stream.synchronize();
            assertThat(stream.marked()).isEqualTo(3);
            stream.enqueue(() -> {
                throw new IllegalStateException("broken");
            });
            stream.mark(4);
            assertThatThrownBy(stream::synchronize).hasMessageContaining("broken");
            assertThat(stream.marked()).isEqualTo(3);
        }
    }

    @Test
    void needsAreTheDevices() {
        CpuDeviceProvider provider = new CpuDeviceProvider();
        CpuDevice device = (CpuDevice) provider.open("2", true).getFirst();
        assertThat(provider.needs("2", true))
                .isEqualTo(new DeviceNeeds(device.workspaceBytes(), CpuDevice.LOGITS_AT_A_TIME));
        assertThat(device.memory().used()).isPositive();
    }

    @Test
    void workRunsInOrderAlsoWhenTheRingIsFull() {
        List<Integer> seen = new ArrayList<>();
        try (Stream stream = device.stream("s", null)) {
            CountDownLatch gate = new CountDownLatch(1);
            stream.enqueue(() -> block(gate));
            Thread opener = Thread.ofPlatform().start(() -> {
                try {
                    Thread.sleep(50);
                } catch (InterruptedException e) {
                    throw new IllegalStateException(e);
                }
                gate.countDown();
            });
            for (int i = 0; i < 5000; i++) {
                int number = i;
                stream.enqueue(() -> seen.add(number));
            }
            stream.synchronize();
            assertThat(opener.isInterrupted()).isFalse();
        }
        assertThat(seen).hasSize(5000).isSorted();
    }

    @Test
    void anAwaitWaitsForTheRecordsIssuedBeforeItOnly() {
        AtomicInteger state = new AtomicInteger();
        CountDownLatch first = new CountDownLatch(1);
        CountDownLatch second = new CountDownLatch(1);
        Event event = device.event();
        try (Stream a = device.stream("a", null);
                Stream b = device.stream("b", null)) {
            b.await(event);
            b.synchronize();
            a.enqueue(() -> block(first));
            a.enqueue(() -> state.set(1));
            a.record(event);
            b.await(event);
            b.enqueue(() -> state.compareAndSet(1, 2));
            a.enqueue(() -> block(second));
            a.record(event);
            first.countDown();
            // The second record cannot be reached yet, and b does not wait for it.
            b.synchronize();
            assertThat(state.get()).isEqualTo(2);
            second.countDown();
            event.synchronize();
            a.synchronize();
        }
    }

    @Test
    void aFailureStopsTheStreamAndThoseThatWaitForIt() {
        AtomicInteger later = new AtomicInteger();
        Event event = device.event();
        try (Stream a = device.stream("a", null);
                Stream b = device.stream("b", null)) {
            a.enqueue(() -> {
                throw new IllegalStateException("broken");
            });
            a.enqueue(later::incrementAndGet);
            a.record(event);
            b.await(event);
            b.enqueue(later::incrementAndGet);
            assertThatThrownBy(a::synchronize).hasMessageContaining("broken").hasMessageContaining("stream a");
            assertThatThrownBy(b::synchronize).hasMessageContaining("broken");
            assertThatThrownBy(event::synchronize).hasMessageContaining("broken");
        }
        assertThat(later.get()).isZero();
    }

    @Test
    void aFailureOfAWorkerIsTheCallers() {
        try (CpuWorkers workers = new CpuWorkers("w", 3, 1000)) {
            AtomicInteger ran = new AtomicInteger();
            assertThatThrownBy(() -> workers.parallel(100, task -> {
                        ran.incrementAndGet();
                        if (task == 57) {
                            throw new IllegalStateException("task 57");
                        }
                    }))
                    .hasMessage("task 57");
            assertThat(ran.get()).isEqualTo(100);
            workers.parallel(3, task -> ran.incrementAndGet());
            assertThat(ran.get()).isEqualTo(103);
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 2, 5})
    void workersRunEachTaskOnce(int threads) {
        try (CpuWorkers workers = new CpuWorkers("w", threads, 500)) {
            for (int round = 0; round < 3000; round++) {
                int tasks = round % 23;
                AtomicIntegerArray runs = new AtomicIntegerArray(23);
                workers.parallel(tasks, runs::incrementAndGet);
                for (int task = 0; task < 23; task++) {
                    assertThat(runs.get(task)).isEqualTo(task < tasks ? 1 : 0);
                }
            }
        }
    }

    @Test
    void aCaptureRunsOnlyWhenLaunched() {
        AtomicInteger count = new AtomicInteger();
        try (Stream stream = device.stream("s", null);
                Stream other = device.stream("t", null)) {
            Event event = device.event();
            stream.beginCapture();
            stream.enqueue(count::incrementAndGet);
            assertThatThrownBy(() -> stream.record(event)).hasMessageContaining("capture");
            assertThatThrownBy(() -> stream.await(event)).hasMessageContaining("capture");
            Stream.Graph graph = stream.endCapture();
            stream.synchronize();
            assertThat(count.get()).isZero();
            for (int i = 0; i < 10; i++) {
                stream.launch(graph);
            }
            stream.synchronize();
            assertThat(count.get()).isEqualTo(10);
            assertThatThrownBy(() -> other.launch(graph)).isInstanceOf(IllegalArgumentException.class);
            assertThatThrownBy(stream::endCapture).isInstanceOf(IllegalStateException.class);
        }
    }

    @Test
    void launchesAllocateNothing() {
        com.sun.management.ThreadMXBean threads = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
        AttentionShape shape = new AttentionShape(1, 200, 2, 1, 32, true);
        Memory memory = device.allocate("m", 1 << 22);
        Memory scratch = device.allocate("w", device.workspaceBytes());
        Tensor qkv = memory.tensor(0, DType.BF16, Shape.of(200, 128));
        Tensor out = memory.tensor(1 << 20, DType.BF16, Shape.of(200, 64));
        Tensor lse = memory.tensor(2 << 20, DType.F32, Shape.of(400));
        Tensor positions = memory.tensor(3 << 20, DType.I32, Shape.of(200));
        try (Stream stream = device.stream("s", scratch.tensor(0, DType.BF16, Shape.of(scratch.bytes() / 2)))) {
            Event event = device.event();
            stream.beginCapture();
            device.kernels().attention(stream, shape, qkv, positions, out, lse);
            device.kernels().zero(stream, qkv);
            Stream.Graph graph = stream.endCapture();
            IntConsumer step = i -> {
                stream.launch(graph);
                stream.record(event);
                stream.await(event);
                stream.synchronize();
            };
            for (int i = 0; i < 100; i++) {
                step.accept(i);
            }
            long natives = NativeMemory.allocations();
            // Vectors are objects until the kernels are compiled: some round must be free of them, on all threads.
            long fewest = Long.MAX_VALUE;
            for (int round = 0; round < 200 && fewest > 20_000; round++) {
                long before = threads.getTotalThreadAllocatedBytes();
                for (int i = 0; i < 100; i++) {
                    step.accept(i);
                }
                fewest = Math.min(fewest, threads.getTotalThreadAllocatedBytes() - before);
            }
            assertThat(fewest).as("bytes in 100 launches").isLessThanOrEqualTo(20_000);
            assertThat(NativeMemory.allocations()).isEqualTo(natives);
        }
        device.free(scratch);
        device.free(memory);
    }

    @Test
    void devicesAreFoundAndOpened() {
        DeviceProvider provider = ServiceLoader.load(DeviceProvider.class).stream()
                .map(ServiceLoader.Provider::get)
                .filter(p -> p.kind().equals("cpu"))
                .findFirst()
                .orElseThrow();
        List<Device> devices = provider.open("3", true);
        assertThat(devices).hasSize(3);
        assertThat(devices.get(2).name()).startsWith("cpu:2 (");
        assertThat(provider.open("", true)).hasSize(1);
        for (String wrong : new String[] {"0", "-1", "x", "1.5", "99999"}) {
            assertThatThrownBy(() -> provider.open(wrong, true))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("cpu:" + wrong);
        }
    }

    @Test
    void wrongShapesAreNamed() {
        Memory memory = device.allocate("m", 4096);
        Tensor x = memory.tensor(0, DType.F32, Shape.of(3, 5));
        Tensor weight = memory.tensor(0, DType.F32, Shape.of(4, 6));
        try (Stream stream = device.stream("s", null)) {
            assertThatThrownBy(() -> device.kernels().linear(stream, x, weight, null, x))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("linear")
                    .hasMessageContaining("x F32[3, 5] weight F32[4, 6]");
        }
        device.free(memory);
    }
}
