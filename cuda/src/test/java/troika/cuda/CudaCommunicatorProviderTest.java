package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.List;
import java.util.ServiceLoader;
import org.junit.jupiter.api.Test;
import troika.comm.CommunicatorProvider;
import troika.cuda.CudaCommunicatorProvider.NcclUse.When;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;
import troika.tensor.UserException;

class CudaCommunicatorProviderTest {
    private static Tensor tensor(DType dtype, long elements) {
        return new Memory("m", 4096, 1 << 20, false).tensor(0, dtype, Shape.of(elements));
    }

    @Test
    void theProviderIsFoundAndServesCardsOnly() {
        assertThat(ServiceLoader.load(CommunicatorProvider.class))
                .singleElement()
                .isInstanceOf(CudaCommunicatorProvider.class)
                .satisfies(provider -> assertThat(provider.serves(List.of())).isFalse());
    }

    @Test
    void ncclIsTriedWhereItWasFoundAndMayRun() {
        assertThat(CudaCommunicatorProvider.use("", 3, true, false, true).when())
                .isEqualTo(When.IF_FASTER);
        assertThat(CudaCommunicatorProvider.use("", 1, true, false, true).when())
                .isEqualTo(When.NEVER);
        assertThat(CudaCommunicatorProvider.use("", 3, true, false, false).why())
                .contains("no NCCL");
        assertThat(CudaCommunicatorProvider.use("", 3, false, false, true).why())
                .contains("share a card");
        assertThat(CudaCommunicatorProvider.use("", 3, true, true, true).why()).contains("order of ranks");
        assertThat(CudaCommunicatorProvider.use("own", 3, true, false, true).when())
                .isEqualTo(When.NEVER);
        assertThat(CudaCommunicatorProvider.use("nccl", 1, true, true, true).when())
                .isEqualTo(When.ALWAYS);
        assertThatThrownBy(() -> CudaCommunicatorProvider.use("nccl", 3, false, false, true))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("ranks share a card");
        assertThatThrownBy(() -> CudaCommunicatorProvider.use("nccl", 3, true, false, false))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("there is no NCCL");
        assertThatThrownBy(() -> CudaCommunicatorProvider.use("mpi", 3, true, false, true))
                .isInstanceOf(UserException.class)
                .hasMessage("-Dtroika.cuda.collectives=mpi is unknown: it can be nccl or own.");
    }

    @Test
    void cardsThatReachEachOtherAreBelievedWhenDataCameOverRight() {
        assertThat(CardPath.of(true, true, 50e9, 25e9).direct()).isTrue();
        assertThat(CardPath.of(true, false, 50e9, 25e9))
                .isEqualTo(new CardPath(
                        false, false, 0, 25e9, CardPath.of(true, false, 0, 0).why()));
        assertThat(CardPath.of(true, false, 50e9, 25e9).why()).contains("wrong");
        assertThat(CardPath.of(false, false, 0, 25e9).direct()).isFalse();
        assertThat(CardPath.of(false, false, 0, 25e9).why()).contains("cannot reach");
    }

    @Test
    void aGroupHasAsManyRanksAsASumTakes() {
        CudaGroup.requireSize(16);
        assertThatThrownBy(() -> CudaGroup.requireSize(17))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("17 ranks");
        assertThat(Exchange.mostWhole()).isGreaterThanOrEqualTo(CudaGroup.SMALL_BYTES);
    }

    @Test
    void wrongArgumentsAreNamed() {
        CollectiveArguments.sum(tensor(DType.F16, 3));
        assertThatThrownBy(() -> CollectiveArguments.sum(tensor(DType.I32, 3))).hasMessageContaining("I32");
        CollectiveArguments.part(tensor(DType.I32, 3), tensor(DType.I32, 3));
        CollectiveArguments.part(tensor(DType.I32, 0), tensor(DType.I32, 3));
        assertThatThrownBy(() -> CollectiveArguments.part(tensor(DType.F32, 4), tensor(DType.F32, 3)))
                .hasMessage("F32[4] is no part of F32[3]");
        assertThatThrownBy(() -> CollectiveArguments.part(tensor(DType.F16, 2), tensor(DType.BF16, 3)))
                .hasMessage("F16[2] is no part of BF16[3]");
        CollectiveArguments.peer(0, 1, 2);
        for (int peer : new int[] {-1, 1, 2}) {
            assertThatThrownBy(() -> CollectiveArguments.peer(peer, 1, 2))
                    .hasMessage("rank 1 of 2 has no peer " + peer);
        }
    }

    @Test
    void ncclsVersionHasDots() {
        assertThat(NcclGroup.dotted(22_705)).isEqualTo("2.27.5");
        assertThat(NcclGroup.dotted(2_804)).isEqualTo("2.8.4");
    }
}
