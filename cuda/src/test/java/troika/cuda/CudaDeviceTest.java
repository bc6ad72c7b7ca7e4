package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.Timeout;
import troika.ffi.NativeMemory;
import troika.tensor.DType;
import troika.tensor.DeviceMemory;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;
import troika.tensor.UserException;

/// A card's memory, and launching functions that NVRTC compiled.
@Tag("gpu")
@Timeout(120)
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaDeviceTest {
    private static final String SOURCE = """
            extern "C" __global__ void mix(float* out, int a, float b, long long c, int n) {
                int i = blockIdx.x * blockDim.x + threadIdx.x;
                if (i < n) out[i] = a + b + (float) (c >> 33) + i + 1000 * (blockIdx.y + 10 * blockIdx.z);
            }
            extern "C" __global__ void shared(int* out, int n) {
                extern __shared__ int held[];
                for (int i = threadIdx.x; i < n; i += blockDim.x) held[i] = i;
                __syncthreads();
                for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = held[n - 1 - i];
            }
            """;

    private final CudaDevice device = Cards.open();
    private final long module = load(device);

    private static long load(CudaDevice device) {
        device.bind();
        return Driver.moduleLoad(Nvrtc.compile(
                "test.cu", SOURCE, List.of("--gpu-architecture=sm_" + device.capability(), "--std=c++17"), false));
    }

    @AfterAll
    void close() {
        device.close();
    }

    private CudaFunction function(String name) {
        return new CudaFunction(device, name, Driver.moduleFunction(module, name));
    }

    private static byte[] random(int bytes) {
        byte[] data = new byte[bytes];
        new SplittableRandom(bytes).nextBytes(data);
        return data;
    }

    @Test
    void theCardIsNamed() {
        assertThat(device.name()).matches("cuda:0 \\(.+, \\d+ GiB, sm_\\d+, CUDA \\d+\\.\\d\\)");
        assertThat(device.identity()).contains("sm_" + device.capability()).contains("driver ");
        assertThat(device.multiprocessors()).isPositive();
        assertThat(device.sharedMemoryPerBlock()).isGreaterThan(48 << 10);
    }

    @Test
    void memoryIsZeroedAndAligned() {
        for (long bytes : new long[] {5, 4096, 4097, 33_000_001}) {
            for (Memory memory : List.of(device.allocate("m", bytes), device.allocateHost("h", bytes))) {
                assertThat(memory.address() % 4096).isZero();
                byte[] content = new byte[(int) bytes / 4 * 4];
                new SplittableRandom(1).nextBytes(content);
                device.read(memory.tensor(0, DType.I32, Shape.of(bytes / 4)), MemorySegment.ofArray(content));
                for (int i = 0; i < content.length; i++) {
                    if (content[i] != 0) {
                        throw new AssertionError("byte " + i + " of " + memory.name() + " is not zero");
                    }
                }
                // What the next allocation may get must not be zero by chance.
                device.write(
                        memory.tensor(0, DType.I32, Shape.of(bytes / 4)),
                        MemorySegment.ofArray(random((int) bytes / 4 * 4)));
                device.free(memory);
            }
        }
    }

    @Test
    void allHostSegmentsOfAllSizesComeBack() {
        Memory memory = device.allocate("m", 3 * Transfers.PIECE_BYTES + 8192);
        Memory pinned = device.allocateHost("h", memory.bytes());
        int piece = (int) Transfers.PIECE_BYTES;
        for (int bytes : new int[] {0, 4, 4000, piece - 4, piece, piece + 4, 2 * piece, 3 * piece + 4}) {
            byte[] data = random(bytes);
            for (Memory at : List.of(memory, pinned)) {
                Tensor tensor = at.tensor(260, DType.I32, Shape.of(bytes / 4));
                try (Arena arena = Arena.ofConfined()) {
                    device.write(tensor, MemorySegment.ofArray(data).asReadOnly());
                    MemorySegment off = arena.allocate(bytes + 1);
                    device.read(tensor, off);
                    assertThat(off.asSlice(0, bytes).toArray(ValueLayout.JAVA_BYTE))
                            .isEqualTo(data);
                    off.fill((byte) 7);
                    device.write(tensor, off);
                    byte[] back = new byte[bytes];
                    device.read(tensor, MemorySegment.ofArray(back));
                    for (byte b : back) {
                        if (b != 7) {
                            throw new AssertionError("not all of " + bytes + " bytes were written");
                        }
                    }
                }
            }
        }
        device.free(pinned);
        device.free(memory);
        assertThatThrownBy(() -> device.free(memory)).hasMessageContaining("m is no memory of cuda:0");
    }

    @Test
    void aTransferTouchesItsTensorOnly() {
        Memory memory = device.allocate("m", 4096);
        device.write(memory.tensor(1024, DType.I32, Shape.of(3)), MemorySegment.ofArray(new int[] {1, 2, 3, 4}));
        int[] all = new int[1024];
        device.read(memory.tensor(0, DType.I32, Shape.of(1024)), MemorySegment.ofArray(all));
        assertThat(all[255]).isZero();
        assertThat(new int[] {all[256], all[257], all[258], all[259]}).containsExactly(1, 2, 3, 0);
        device.free(memory);
    }

    @Test
    void tooMuchMemoryIsAUsersMistake() {
        long before = NativeMemory.allocations();
        assertThatThrownBy(() -> device.allocate("rank 0 device arena", 1L << 45))
                .isInstanceOf(UserException.class)
                .hasMessageStartingWith(
                        "The rank 0 device arena needs 32768.00 GiB of memory on " + device.name() + ", which has ");
        assertThat(NativeMemory.allocations()).isEqualTo(before);
        // The card goes on.
        device.free(device.allocate("small", 4096));
    }

    @Test
    void argumentsReachTheKernelInTheirOrder() {
        Memory memory = device.allocate("m", 4096);
        Tensor out = memory.tensor(0, DType.F32, Shape.of(40));
        try (CudaStream stream = (CudaStream) device.stream("s", null)) {
            function("mix").launch(stream, 2L, 1L, 2L, 32, 0, out.address(), 100, 0.5f, 7L << 33, 40);
            stream.synchronize();
            float[] result = new float[40];
            device.read(out, MemorySegment.ofArray(result));
            for (int i = 0; i < 40; i++) {
                // Either of the two blocks along z wrote last.
                assertThat(result[i] % 10_000).isEqualTo(107.5f + i);
            }
            function("mix").launch(stream, 2, 32, 0, out.address(), 100, 0.5f, 8L << 33, 39);
            stream.synchronize();
            device.read(out, MemorySegment.ofArray(result));
            assertThat(result[38]).isEqualTo(108.5f + 38);
            assertThat(result[39] % 10_000).isEqualTo(107.5f + 39);
        }
        device.free(memory);
    }

    @Test
    void aBlockGetsTheSharedMemoryItAsksFor() {
        int bytes = (int) device.sharedMemoryPerBlock();
        int n = bytes / 4;
        Memory memory = device.allocate("m", bytes);
        Tensor out = memory.tensor(0, DType.I32, Shape.of(n));
        CudaFunction shared = function("shared");
        try (CudaStream stream = (CudaStream) device.stream("s", null)) {
            shared.launch(stream, 1, 256, bytes, out.address(), n);
            stream.synchronize();
            int[] result = new int[n];
            device.read(out, MemorySegment.ofArray(result));
            for (int i = 0; i < n; i++) {
                assertThat(result[i]).isEqualTo(n - 1 - i);
            }
            assertThat(shared.maxActiveBlocksPerMultiprocessor(256, bytes)).isEqualTo(1);
            assertThat(shared.maxActiveBlocksPerMultiprocessor(256, 1024)).isGreaterThan(1);
            assertThatThrownBy(() -> shared.launch(stream, 1, 256, bytes + 4, out.address(), n))
                    .hasMessageContaining("kernel shared wants " + (bytes + 4) + " bytes of shared memory");
        }
        device.free(memory);
    }

    @Test
    void aLaunchThatFailsIsNamed() {
        try (CudaStream stream = (CudaStream) device.stream("s", null)) {
            assertThatThrownBy(() -> function("mix").launch(stream, 3, 2048, 0, 4096L, 1, 2f, 3L, 0))
                    .isInstanceOf(CudaException.class)
                    .hasMessageContaining("cuLaunchKernel returned 1 (CUDA_ERROR_INVALID_VALUE")
                    .hasMessageContaining("kernel mix, grid 3 x 1 x 1, block 2048")
                    .hasMessageContaining("[4096, 1, 2.0, 3, 0] on stream s");
            assertThatThrownBy(() -> function("mix").launch(stream, 1, 32, 0, 4096L, 1.0))
                    .hasMessage("argument 1 of kernel mix is a java.lang.Double");
            stream.synchronize();
        }
    }

    @Test
    void aSourceThatDoesNotCompileIsNamedWithItsLine() {
        assertThatThrownBy(() ->
                        Nvrtc.compile("wrong.cu", "__global__ void f() { nonsense; }", List.of("--std=c++17"), false))
                .isInstanceOf(CudaException.class)
                .hasMessageContaining("wrong.cu(1)")
                .hasMessageContaining("nonsense");
    }

    @Test
    void ptxIsCompiledByTheDriver() {
        int oldest = Nvrtc.architectures().getFirst();
        byte[] ptx = Nvrtc.compile("test.cu", SOURCE, List.of("--gpu-architecture=compute_" + oldest), true);
        assertThat(ptx[ptx.length - 1]).isZero();
        long loaded = Driver.moduleLoad(ptx);
        assertThat(Driver.moduleFunction(loaded, "mix")).isNotZero();
        assertThatThrownBy(() -> Driver.moduleFunction(loaded, "absent"))
                .hasMessageContaining("cuModuleGetFunction returned 500");
        Driver.moduleUnload(loaded);
    }

    @Test
    void memoryInUseGrowsByWhatIsAllocated() {
        long bytes = 1L << 30;
        DeviceMemory before = device.memory();
        Memory memory = device.allocate("m", bytes);
        DeviceMemory after = device.memory();
        device.free(memory);
        assertThat(before.free() - after.free()).isBetween(bytes, bytes + (64L << 20));
        assertThat(after.used() - before.used()).isBetween(bytes, bytes + (64L << 20));
    }

    @Test
    void severalThreadsCopyAtATime() {
        int bytes = 3 << 20;
        Memory memory = device.allocate("m", 16L * bytes);
        IntStream.range(0, 16).parallel().forEach(i -> {
            byte[] data = random(bytes);
            data[0] = (byte) i;
            Tensor part = memory.tensor((long) i * bytes, DType.I32, Shape.of(bytes / 4));
            device.write(part, MemorySegment.ofArray(data));
            byte[] back = new byte[bytes];
            device.read(part, MemorySegment.ofArray(back));
            assertThat(back).isEqualTo(data);
        });
        device.free(memory);
    }
}
