package troika.train;

import java.util.List;
import java.util.ServiceLoader;
import troika.tensor.Device;
import troika.tensor.DeviceProvider;
import troika.tensor.UserException;

/// Opens what `--devices` names.
final class DeviceFinder {
    private DeviceFinder() {}

    /// @param devices such as "cpu:3"
    /// @param deterministic as [DeviceProvider#open] has it
    /// @return one device a rank
    static List<Device> open(String devices, boolean deterministic) {
        int colon = devices.indexOf(':');
        String kind = colon < 0 ? devices : devices.substring(0, colon);
        for (DeviceProvider provider : ServiceLoader.load(DeviceProvider.class)) {
            if (provider.kind().equals(kind)) {
                return provider.open(colon < 0 ? "" : devices.substring(colon + 1), deterministic);
            }
        }
        throw new UserException("There is no device of kind " + kind + " in this build: give --devices cpu:N.");
    }
}
