package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.lang.foreign.MemorySegment;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Tensor;

/// NCCL's collectives, as far as one card shows them: a group of one rank, where each is a copy.
@Tag("gpu")
@Timeout(120)
class NcclGroupTest {
    private static final int N = 100_003;

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void collectivesOfOneRankAreCopies(boolean alike) {
        CudaDevice device = Cards.open(false);
        try (device) {
            assumeTrue(CudaLibraries.nccl() != null, "there is no NCCL");
            NcclGroup.Rank rank = new NcclGroup(List.of(device), Routes.of(1, (_, _) -> Route.DIRECT))
                    .ranks()
                    .getFirst();
            float[] data = new float[N];
            for (int i = 0; i < N; i++) {
                data[i] = i * 0.37f;
            }
            long[] starts = {0, N};
            Memory memory = device.allocate("m", 12L * N);
            Tensor a = CardGroup.tensor(memory, 0, DType.F32, N);
            Tensor b = CardGroup.tensor(memory, 4L * N, DType.F32, N);
            Tensor c = CardGroup.tensor(memory, 8L * N, DType.F32, N);
            device.write(a, MemorySegment.ofArray(data));
            try (CudaStream lane = (CudaStream) device.stream("lane", null)) {
                rank.allReduce(lane, a);
                rank.reduceScatter(lane, a, b, starts, alike);
                rank.allGather(lane, b, c, starts, alike);
                lane.synchronize();
                float[] back = new float[N];
                device.read(c, MemorySegment.ofArray(back));
                assertThat(back).isEqualTo(data);
                // As the engine calls them.
                rank.reduceScatter(lane, a, a);
                rank.allGather(lane, a, a);
                lane.synchronize();
                device.read(a, MemorySegment.ofArray(back));
                assertThat(back).isEqualTo(data);
            }
            assertThat(rank.bytesReceived()).isZero();
            rank.close();
            rank.close();
            assertThat(Nccl.version()).matches("2\\.\\d+\\.\\d+");
        }
    }

    @Test
    void aWrongCallIsNamedWithNcclsOwnWords() {
        CudaDevice device = Cards.open(false);
        try (device) {
            assumeTrue(CudaLibraries.nccl() != null, "there is no NCCL");
            assertThatThrownBy(() -> Nccl.create(List.of(device.ordinal(), device.ordinal())))
                    .isInstanceOf(CudaException.class)
                    .hasMessageContaining("ncclCommInitAll returned ");
        }
    }
}
