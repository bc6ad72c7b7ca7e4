package troika.train;

import java.util.List;
import java.util.ServiceLoader;
import troika.tensor.Device;
import troika.tensor.DeviceProvider;
import troika.tensor.UserException;
import troika.train.config.Devices;

/// Opens what `--devices` names.
final class DeviceFinder {
    private DeviceFinder() {}

    /// @param text such as "cpu:3"
    /// @param deterministic as [DeviceProvider#open] has it
    /// @return one device a rank
    static List<Device> open(String text, boolean deterministic) {
        Devices devices = Devices.of(text, _ -> {});
        for (DeviceProvider provider : ServiceLoader.load(DeviceProvider.class)) {
            if (provider.kind().equals(devices.kind())) {
                return provider.open(devices.specification(), deterministic);
            }
        }
        throw new UserException(
                "There are no devices of kind " + devices.kind() + " in this build: give --devices cpu:N.");
    }
}
