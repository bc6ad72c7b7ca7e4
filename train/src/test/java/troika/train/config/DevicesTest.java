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
        "'cuda:0,1,2', 0, 'cuda:0,1,2', 3",
        "'cuda:0,0,0', 1, 'cuda:0,0,0', 3",
        "cuda:0-2, 3, 'cuda:0,1,2', 3",
        "'cuda:1,00-2', 3, 'cuda:1,0,1,2', 4",
    })
    void whatIsNamed(String text, int cards, String devices, int ranks) {
        Devices named = Devices.of(text, 1, machine(new Presence(cards, "")), notices::add);
        assertThat(named.toString()).isEqualTo(devices);
        assertThat(named.ranks()).isEqualTo(ranks);
        assertThat(notices).isEmpty();
    }

    @Test
    void autoSaysWhyACardIsNotUsed() {
        Devices named =
                Devices.of("auto", 1, machine(new Presence(0, "There is no cuBLASLt: install it.")), notices::add);
        assertThat(named.toString()).isEqualTo("cpu:1");
        assertThat(notices)
                .containsExactly(
                        "Going on with cpu:1, since the card cannot be used: There is no cuBLASLt: install it.");
    }

    @ParameterizedTest
    @CsvSource({
        "'cuda:0,,1', does not name a card",
        "cuda:2-0, which is no range",
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
        assertThatThrownBy(() -> Devices.of(text, 1, machine(new Presence(1, "")), notices::add))
                .isInstanceOf(UserException.class)
                .message()
                .startsWith("--devices " + text)
                .contains(part)
                .endsWith(".");
    }

    @Test
    void numGpusIsACardOrCpuRanks() {
        List<DeviceProvider> cards = machine(new Presence(2, ""));
        List<DeviceProvider> none = machine(Presence.NONE);
        assertThat(counted(1, cards)).isEqualTo("cuda:0");
        assertThat(counted(2, cards)).isEqualTo("cuda:0,1");
        assertThat(counted(1, none)).isEqualTo("cpu:1");
        assertThat(counted(3, none)).isEqualTo("cpu:3");
        assertThat(notices).isEmpty();
        List<DeviceProvider> broken = machine(new Presence(0, "It lacks a library."));
        assertThat(counted(3, broken)).isEqualTo("cpu:3");
        assertThat(notices).containsExactly("Going on with cpu:3, since the card cannot be used: It lacks a library.");
        assertThatThrownBy(() -> counted(3, cards))
                .isInstanceOf(UserException.class)
                .hasMessage("--num-gpus asks for 3 cards, and there are 2: several ranks may share a card, as in"
                        + " --devices cuda:0,1,0, or run on the CPU with --devices cpu:3.");
    }

    private String counted(int ranks, List<DeviceProvider> providers) {
        return Devices.counted(ranks, "--num-gpus", providers, notices::add).toString();
    }

    /// `auto` for a layout of more than one rank.
    @Test
    void autoIsForAsManyRanksAsTheLayoutHas() {
        assertThat(Devices.of("auto", 3, machine(new Presence(4, "")), notices::add)
                        .toString())
                .isEqualTo("cuda:0,1,2");
        assertThat(Devices.of("auto", 3, machine(Presence.NONE), notices::add).toString())
                .isEqualTo("cpu:3");
    }

    @ParameterizedTest
    @CsvSource({
        "cpu:2, 5, cpu:5",
        "cuda:1, 3, 'cuda:1,1,1'",
        "'cuda:0,1,2', 2, 'cuda:0,1'",
        "'cuda:0,1', 3, 'cuda:0,1,0'"
    })
    void otherNumbersOfRanksUseTheSameDevices(String text, int ranks, String expected) {
        assertThat(Devices.of(text, 1, machine(Presence.NONE), notices::add)
                        .withRanks(ranks)
                        .toString())
                .isEqualTo(expected);
    }
}
