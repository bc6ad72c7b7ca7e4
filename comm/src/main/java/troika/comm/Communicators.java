package troika.comm;

import java.util.List;
import java.util.ServiceLoader;
import troika.tensor.Device;

/// Makes groups of ranks for any devices.
public final class Communicators {
    private Communicators() {}

    /// Makes the communicators of a new group, by rank: those of the first [CommunicatorProvider] that serves the
    /// devices, or else of an [InProcessGroup], which is for devices with host memory.
    ///
    /// @param devices by rank of the group
    public static List<Communicator> create(List<Device> devices) {
        return create(devices, ServiceLoader.load(CommunicatorProvider.class));
    }

    static List<Communicator> create(List<Device> devices, Iterable<CommunicatorProvider> providers) {
        for (CommunicatorProvider provider : providers) {
            if (provider.serves(devices)) {
                return provider.create(devices);
            }
        }
        return InProcessGroup.create(devices.size());
    }
}
