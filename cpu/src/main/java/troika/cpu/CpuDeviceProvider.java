package troika.cpu;

import java.util.ArrayList;
import java.util.List;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.tensor.DeviceProvider;
import troika.tensor.Finding;
import troika.tensor.Presence;
import troika.tensor.UserException;

/// Opens `cpu:N`, the machine's cores divided among N ranks.
public final class CpuDeviceProvider implements DeviceProvider {
    /// The system property that sets the number of threads of each rank.
    public static final String THREADS_PROPERTY = "troika.cpu.threads";

    private static final int MOST_RANKS = 1024;
    private static final int MOST_THREADS = 1024;
    // Where every thread has a core of its own, spinning costs nobody anything and saves the time of waking up.
    private static final long SPIN_NANOS = 50_000;
    private static final long CROWDED_SPIN_NANOS = 3_000;

    @Override
    public String kind() {
        return "cpu";
    }

    /// @param specification the number of ranks; 1 where it is empty
    /// @param deterministic makes no difference: there is one set of algorithms, and it is
    @Override
    public List<Device> open(String specification, boolean deterministic) {
        int ranks = ranks(specification);
        int threads = threads(ranks);
        int cores = Runtime.getRuntime().availableProcessors();
        long spin = (long) ranks * threads <= cores ? SPIN_NANOS : CROWDED_SPIN_NANOS;
        List<Device> devices = new ArrayList<>();
        for (int rank = 0; rank < ranks; rank++) {
            devices.add(new CpuDevice(rank, threads, spin));
        }
        return devices;
    }

    @Override
    public DeviceNeeds needs(String specification, boolean deterministic) {
        return new DeviceNeeds(CpuDevice.workspaceBytes(threads(ranks(specification))), CpuDevice.LOGITS_AT_A_TIME);
    }

    private static int ranks(String specification) {
        return specification.isEmpty()
                ? 1
                : number(
                        specification,
                        MOST_RANKS,
                        "--devices cpu:" + specification + " does not say how many ranks to run: write cpu:N with N "
                                + "from 1 to " + MOST_RANKS + ", such as cpu:2.");
    }

    /// Of each rank.
    private static int threads(int ranks) {
        String property = System.getProperty(THREADS_PROPERTY);
        return property == null
                ? Math.max(1, Runtime.getRuntime().availableProcessors() / ranks)
                : number(
                        property,
                        MOST_THREADS,
                        "-D" + THREADS_PROPERTY + "=" + property + " is not a number of threads: give one from 1 to "
                                + MOST_THREADS + ".");
    }

    @Override
    public Presence presence() {
        return new Presence(1, "");
    }

    @Override
    public List<Finding> diagnose() {
        return new CpuDiagnosis().findings();
    }

    private static int number(String text, int most, String complaint) {
        try {
            int n = Integer.parseInt(text);
            if (n >= 1 && n <= most) {
                return n;
            }
        } catch (NumberFormatException e) {
            throw new UserException(complaint, e);
        }
        throw new UserException(complaint);
    }
}
