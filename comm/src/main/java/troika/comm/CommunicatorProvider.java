package troika.comm;

import java.util.List;
import troika.tensor.Device;

/// Makes communicators between devices of one kind; found by ServiceLoader.
public interface CommunicatorProvider {
    /// Whether it can make a group of these devices.
    boolean serves(List<Device> devices);

    /// Makes the communicators of a new group, by rank.
    ///
    /// @param devices by rank of the group, which it [#serves]
    List<Communicator> create(List<Device> devices);
}
