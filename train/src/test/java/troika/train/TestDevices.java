package troika.train;

import java.util.List;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;

/// The devices that tests train on: CPU ranks, or what the system property `troika.test.devices` names, such as
/// `cuda:0`, which several ranks then share.
final class TestDevices {
    private static final String PROPERTY = "troika.test.devices";
    private static final String NAMED = System.getProperty(PROPERTY, "");

    private TestDevices() {}

    /// What `--devices` would say for this number of ranks.
    static String named(int ranks) {
        if (NAMED.isEmpty()) {
            return "cpu:" + ranks;
        }
        // All ranks share the one device that is named.
        return NAMED + ("," + NAMED.substring(NAMED.indexOf(':') + 1)).repeat(ranks - 1);
    }

    /// One device a rank.
    static List<Device> open(int ranks) {
        return DeviceFinder.open(named(ranks), true);
    }

    /// What a plan for them must know.
    static DeviceNeeds needs(int ranks) {
        return DeviceFinder.needs(named(ranks), true);
    }

    /// How far the losses of two fp32 layouts of one job may differ, relatively.
    static float layoutTolerance() {
        return NAMED.isEmpty() || NAMED.startsWith("cpu") ? 1e-5f : 1e-4f;
    }
}
