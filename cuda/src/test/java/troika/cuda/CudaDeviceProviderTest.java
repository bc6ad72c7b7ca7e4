package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import java.util.List;
import java.util.Map;
import java.util.ServiceLoader;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import troika.tensor.DeviceMemory;
import troika.tensor.DeviceNeeds;
import troika.tensor.DeviceProvider;
import troika.tensor.UserException;

class CudaDeviceProviderTest {
    @Test
    void theProviderIsFound() {
        assertThat(ServiceLoader.load(DeviceProvider.class).stream()
                        .map(ServiceLoader.Provider::get)
                        .filter(provider -> provider.kind().equals("cuda")))
                .singleElement()
                .isInstanceOf(CudaDeviceProvider.class);
    }

    @Test
    void aSpecificationIsACardsNumberOrThatOfEachRanksCard() {
        assertThat(CudaDeviceProvider.ordinals("")).containsExactly(0);
        assertThat(CudaDeviceProvider.ordinals("0")).containsExactly(0);
        assertThat(CudaDeviceProvider.ordinals("12")).containsExactly(12);
        assertThat(CudaDeviceProvider.ordinals("0,2,1")).containsExactly(0, 2, 1);
        assertThat(CudaDeviceProvider.ordinals("0,0,0")).containsExactly(0, 0, 0);
    }

    @ParameterizedTest
    @ValueSource(strings = {"x", "-1", "1.5", "99999999999", " 0", "cuda:0", "0,", ",0", "0,,1", "0, 1", "0-2"})
    void whatIsNoNumberIsNamed(String wrong) {
        String message = "--devices cuda:" + wrong + " does not name a card: write cuda:N with its number, from 0 on, "
                + "such as cuda:0, or the number of each rank's card, such as cuda:0,1.";
        assertThatThrownBy(() -> new CudaDeviceProvider().open(wrong, true))
                .isInstanceOf(UserException.class)
                .hasMessage(message);
        assertThatThrownBy(() -> new CudaDeviceProvider().needs(wrong, true)).hasMessage(message);
    }

    @Test
    void withoutADriverTheSentenceSaysSo() {
        assumeFalse(Cards.driver(), "this machine has an NVIDIA driver");
        assertThatThrownBy(() -> new CudaDeviceProvider().open("", true))
                .isInstanceOf(UserException.class)
                .hasMessageStartingWith(
                        "There is no NVIDIA driver (libcuda.so.1) on this machine: install one for CUDA "
                                + "12 or newer; searched were ")
                .hasMessageNotContaining("\n");
    }

    @Test
    void cardsAndDriversThatDoNotDoAreNamed() {
        CudaDeviceProvider.requireDriver(12_000);
        assertThatThrownBy(() -> CudaDeviceProvider.requireDriver(11_080))
                .isInstanceOf(UserException.class)
                .hasMessage("The NVIDIA driver of this machine runs CUDA 11.8, and Troika needs 12.0 or newer: update "
                        + "the driver.");
        CudaDeviceProvider.requireCard(1, 2);
        assertThatThrownBy(() -> CudaDeviceProvider.requireCard(1, 1))
                .isInstanceOf(UserException.class)
                .hasMessageStartingWith("--devices cuda:1 names a card that is not there: the driver has one, cuda:0");
        assertThatThrownBy(() -> CudaDeviceProvider.requireCard(3, 3))
                .hasMessageContaining("the driver has 3, cuda:0 to cuda:2");
        assertThatThrownBy(() -> CudaDeviceProvider.requireCard(0, 0)).hasMessageContaining("the driver has none");
        CudaDeviceProvider.requireCapability(0, "A100", 80);
        assertThatThrownBy(() -> CudaDeviceProvider.requireCapability(2, "Tesla T4", 75))
                .isInstanceOf(UserException.class)
                .hasMessage(
                        "Card cuda:2 (Tesla T4) has compute capability 7.5, and Troika needs 8.0 (Ampere) or newer: "
                                + "name another card, or train with --devices cpu.");
    }

    @Test
    void librariesAreOfAVersionThatTheDriverRuns() {
        assertThat(CudaLibraries.majors(13_000)).containsExactly("13", "12");
        assertThat(CudaLibraries.majors(14_010)).containsExactly("13", "12");
        assertThat(CudaLibraries.majors(12_090)).containsExactly("12");
    }

    @Test
    void kernelsAreCompiledForTheCardOrForTheNewestOlderOne() {
        List<Integer> architectures = List.of(75, 80, 86, 89, 90, 100);
        assertThat(KernelLoader.target(89, architectures).option()).isEqualTo("--gpu-architecture=sm_89");
        assertThat(KernelLoader.target(89, architectures).ptx()).isFalse();
        assertThat(KernelLoader.target(120, architectures).option()).isEqualTo("--gpu-architecture=compute_100");
        assertThat(KernelLoader.target(120, architectures).ptx()).isTrue();
        assertThatThrownBy(() -> KernelLoader.target(70, architectures)).hasMessageContaining("sm_70");
    }

    @Test
    void memoryInUseIsNvmlsOrWhatHasGone() {
        assertThat(CudaDevice.memory(5, 100, 70, 3)).isEqualTo(new DeviceMemory(5, 70, CudaDevice.OVERHEAD_BYTES + 3));
        assertThat(CudaDevice.memory(0, 100, 70, 0).used()).isEqualTo(30);
        // Others have given some back meanwhile.
        assertThat(CudaDevice.memory(0, 100, 120, 0).used()).isZero();
    }

    @Test
    void ranksThatShareACardHaveTheirShareOfItsMemory() {
        DeviceMemory whole = new DeviceMemory(40, 60, 7);
        assertThat(CudaDevice.share(whole, 10, 10, 1)).isEqualTo(whole);
        // Before anything is allocated: what the process has taken and what is free, by three.
        assertThat(CudaDevice.share(new DeviceMemory(6, 90, 7), 0, 0, 3)).isEqualTo(new DeviceMemory(2, 30, 7));
        // The first of three has allocated 30 of the 90.
        assertThat(CudaDevice.share(new DeviceMemory(36, 60, 7), 30, 30, 3)).isEqualTo(new DeviceMemory(32, 0, 7));
        assertThat(CudaDevice.share(new DeviceMemory(36, 60, 7), 0, 30, 3)).isEqualTo(new DeviceMemory(2, 30, 7));
        // One that took more than its share leaves the others no more than there is.
        assertThat(CudaDevice.share(new DeviceMemory(80, 10, 7), 0, 80, 3).free())
                .isEqualTo(10);
        assertThat(CudaDevice.share(new DeviceMemory(80, 10, 7), 80, 80, 3).free())
                .isZero();
    }

    @Test
    void needsAreKnownWithoutACard() {
        assertThat(new CudaDeviceProvider().needs("0,0,0", true)).isEqualTo(new CudaDeviceProvider().needs("0", true));
        assertThat(new CudaDeviceProvider().needs("0", true))
                .isEqualTo(new DeviceNeeds(CudaDevice.workspaceBytes(true), CudaDevice.LOGITS_AT_A_TIME));
    }

    @Test
    void missingMemoryIsSaidWithWhatThereIs() {
        Driver.MemoryInfo memory = new Driver.MemoryInfo(21L << 30, 24L << 30);
        assertThat(CudaDevice.outOfMemory("rank 0 device arena", 30L << 30, "cuda:0 (RTX)", memory, null))
                .isEqualTo(
                        "The rank 0 device arena needs 30.00 GiB of memory on cuda:0 (RTX), which has 21.00 GiB free "
                                + "of 24.00 GiB: use a smaller model, batch or sequence length.");
        String others = Nvml.describe(Map.of(7L, 1L << 30, 11L, 5L << 20, 12L, 3L << 20), 7);
        assertThat(others).isEqualTo("2 other processes use 8.0 MiB there: 11, 12");
        assertThat(CudaDevice.outOfMemory("a", 30L << 30, "c", memory, others))
                .endsWith("24.00 GiB (" + others
                        + "): use a smaller model, batch or sequence length, or end what else uses the card.");
        assertThat(Nvml.describe(Map.of(7L, 0L, 11L, 0L), 7)).isEqualTo("1 other process uses the card: 11");
        assertThat(Nvml.describe(Map.of(7L, 1L), 7)).isNull();
        // Another namespace's numbers: which of them is this process cannot be said.
        assertThat(Nvml.describe(Map.of(11L, 1L, 12L, 1L), 7)).isNull();
    }
}
