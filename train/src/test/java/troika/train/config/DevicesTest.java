package troika.train.config;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.tensor.DeviceProvider;
import troika.tensor.Finding;
import troika.tensor.Presence;
import troika.tensor.UserException;

class DevicesTest {
    private final List<String> notices = new ArrayList<>();

    /// The providers of a machine: the CPU's, and one of cards that are as said.
    private static List<DeviceProvider> machine(Presence cards) {
        return List.of(new Provider("cpu", new Presence(1, "")), new Provider("cuda", cards));
    }

    private record Provider(String kind, Presence presence) implements DeviceProvider {
        @Override
        public List<Device> open(String specification, boolean deterministic) {
            throw new UnsupportedOperationException();
        }

        @Override
        public DeviceNeeds needs(String specification, boolean deterministic) {
            throw new UnsupportedOperationException();
        }

        @Override
        public List<Finding> diagnose() {
            throw new UnsupportedOperationException();
        }
    }

    @ParameterizedTest
    @CsvSource({
        "auto, 2, cuda:0, 1",
        "auto, 0, cpu:1, 1",
        "cpu, 2, cpu:1, 1",
        "cpu:3, 2, cpu:3, 3",
        "cpu:03, 0, cpu:3, 3",
        "cuda, 1, cuda:0, 1",
        "cuda:1, 0, cuda:1, 1",
    })
    void whatIsNamed(String text, int cards, String devices, int ranks) {
        Devices named = Devices.of(text, machine(new Presence(cards, "")), notices::add);
        assertThat(named.toString()).isEqualTo(devices);
        assertThat(named.ranks()).isEqualTo(ranks);
        assertThat(notices).isEmpty();
    }

    @Test
    void autoSaysWhyACardIsNotUsed() {
        Devices named = Devices.of("auto", machine(new Presence(0, "There is no cuBLASLt: install it.")), notices::add);
        assertThat(named.toString()).isEqualTo("cpu:1");
        assertThat(notices)
                .containsExactly(
                        "Going on with cpu:1, since the card cannot be used: There is no cuBLASLt: install it.");
    }

    @ParameterizedTest
    @CsvSource({
        "'cuda:0,1', several cards",
        "cuda:, does not name a card",
        "cuda:x, does not name a card",
        "cuda:-1, does not name a card",
        "'cuda:0,', does not name a card",
        "cpu:, a number of ranks from 1",
        "cpu:0, a number of ranks from 1",
        "'cpu:1,2', a number of ranks from 1",
        "gpu:0, a kind of device that Troika does not have",
        "auto:1, a kind of device that Troika does not have",
    })
    void whatIsNotUnderstoodIsRefusedInOneSentence(String text, String part) {
        assertThatThrownBy(() -> Devices.of(text, machine(new Presence(1, "")), notices::add))
                .isInstanceOf(UserException.class)
                .message()
                .startsWith("--devices " + text + " ")
                .contains(part)
                .endsWith(".");
    }

    @Test
    void numGpusIsACardOrCpuRanks() {
        List<DeviceProvider> cards = machine(new Presence(2, ""));
        List<DeviceProvider> none = machine(Presence.NONE);
        assertThat(Devices.counted(1, cards, notices::add).toString()).isEqualTo("cuda:0");
        assertThat(Devices.counted(1, none, notices::add).toString()).isEqualTo("cpu:1");
        assertThat(Devices.counted(3, none, notices::add).toString()).isEqualTo("cpu:3");
        assertThat(notices).isEmpty();
        List<DeviceProvider> broken = machine(new Presence(0, "It lacks a library."));
        assertThat(Devices.counted(3, broken, notices::add).toString()).isEqualTo("cpu:3");
        assertThat(notices).containsExactly("Going on with cpu:3, since the card cannot be used: It lacks a library.");
        assertThatThrownBy(() -> Devices.counted(3, cards, notices::add))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("--num-gpus 3 asks for several cards");
    }
}
