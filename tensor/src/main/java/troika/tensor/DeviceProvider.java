package troika.tensor;

import java.util.List;

/// Opens the devices of one kind; found by ServiceLoader.
public interface DeviceProvider {
    /// The word before the colon in `--devices cpu:3`.
    String kind();

    /// Opens a device for each rank. `specification` is what follows the colon, such as "3"; empty
    /// for the default. Throws [UserException] where the specification is wrong or the devices
    /// cannot be had.
    List<Device> open(String specification);
}
