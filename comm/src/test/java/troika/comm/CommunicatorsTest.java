package troika.comm;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.reflect.Proxy;
import java.util.List;
import org.junit.jupiter.api.Test;
import troika.tensor.Device;

class CommunicatorsTest {
    private static Device device() {
        return (Device) Proxy.newProxyInstance(
                Device.class.getClassLoader(),
                new Class<?>[] {Device.class},
                (_, method, arguments) -> switch (method.getName()) {
                    case "equals" -> false;
                    case "hashCode" -> 0;
                    default -> "a device";
                });
    }

    private record Provider(int most, List<Communicator> made) implements CommunicatorProvider {
        @Override
        public boolean serves(List<Device> devices) {
            return devices.size() <= most;
        }

        @Override
        public List<Communicator> create(List<Device> devices) {
            return made;
        }
    }

    @Test
    void theFirstThatServesMakesThem() {
        Provider one = new Provider(1, InProcessGroup.create(1));
        Provider two = new Provider(2, InProcessGroup.create(2));
        Provider more = new Provider(2, InProcessGroup.create(2));
        List<CommunicatorProvider> providers = List.of(one, two, more);
        assertThat(Communicators.create(List.of(device()), providers)).isSameAs(one.made());
        assertThat(Communicators.create(List.of(device(), device()), providers)).isSameAs(two.made());
        List<Communicator> own = Communicators.create(List.of(device(), device(), device()), providers);
        assertThat(own).extracting(Communicator::rank).containsExactly(0, 1, 2);
        assertThat(own).extracting(Communicator::size).containsOnly(3);
    }

    @Test
    void withoutProvidersItIsHostMemory() {
        assertThat(Communicators.create(List.of(device()))).hasSize(1).allMatch(Communicator::capturable);
    }
}
