package troika.cuda;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.tensor.DeviceProvider;
import troika.tensor.Finding;
import troika.tensor.Presence;
import troika.tensor.UserException;

/// Opens `cuda:N`, the NVIDIA card of that number, as the driver counts them from 0, and `cuda:N,M,…`, a
/// card for each rank; ranks may share a card.
public final class CudaDeviceProvider implements DeviceProvider {
    private static final int OLDEST_DRIVER = 12_000;
    private static final int OLDEST_CAPABILITY = 80;

    @Override
    public String kind() {
        return "cuda";
    }

    /// @param specification the number of each rank's card; 0 where it is empty
    /// @param deterministic whether two runs must agree bit for bit
    @Override
    public List<Device> open(String specification, boolean deterministic) {
        List<Integer> ordinals = ordinals(specification);
        for (int ordinal : new TreeSet<>(ordinals)) {
            requireUsable(ordinal);
        }
        List<Device> devices = new ArrayList<>();
        try {
            for (int ordinal : ordinals) {
                devices.add(new CudaDevice(ordinal, deterministic));
            }
            return devices;
        } catch (Throwable e) {
            devices.forEach(Device::close);
            throw e;
        }
    }

    @Override
    public DeviceNeeds needs(String specification, boolean deterministic) {
        ordinals(specification);
        return new DeviceNeeds(CudaDevice.workspaceBytes(deterministic), CudaDevice.LOGITS_AT_A_TIME);
    }

    @Override
    public Presence presence() {
        if (!CudaLibraries.hasDriver()) {
            return Presence.NONE;
        }
        try {
            requireUsable(0);
            return new Presence(Driver.deviceCount(), "");
        } catch (UserException e) {
            boolean noCard = e.getCause() instanceof CudaException cause && cause.status() == CudaException.NO_DEVICE;
            return noCard ? Presence.NONE : new Presence(0, String.valueOf(e.getMessage()));
        } catch (RuntimeException | LinkageError e) {
            return new Presence(0, e.getMessage() + ".");
        }
    }

    @Override
    public List<Finding> diagnose() {
        return new CudaDiagnosis().findings();
    }

    /// Throws [UserException] unless the card is there and all that it needs.
    private static void requireUsable(int ordinal) {
        requireDriver(CudaLibraries.driverVersion());
        // Before other threads read the environment.
        CudaLibraries.setEnvironment();
        CudaLibraries.nvml();
        CudaLibraries.loadAhead();
        try {
            Driver.init();
        } catch (CudaException e) {
            throw new UserException(
                    "--devices cuda needs an NVIDIA card, and the driver does not find or start one ("
                            + e.getMessage() + "): look at what nvidia-smi says"
                            + visible(System.getenv("CUDA_VISIBLE_DEVICES")) + ".",
                    e);
        }
        requireCard(ordinal, Driver.deviceCount());
        int handle = Driver.device(ordinal);
        requireCapability(ordinal, Driver.deviceName(handle), CudaDevice.capability(handle));
        CudaLibraries.cublasLt();
    }

    /// The card of each rank.
    static List<Integer> ordinals(String specification) {
        if (specification.isEmpty()) {
            return List.of(0);
        }
        if (!specification.matches("\\d{1,3}(,\\d{1,3})*")) {
            throw new UserException("--devices cuda:" + specification + " does not name a card: write cuda:N with its "
                    + "number, from 0 on, such as cuda:0, or the number of each rank's card, such as cuda:0,1.");
        }
        return Arrays.stream(specification.split(",", -1)).map(Integer::valueOf).toList();
    }

    static void requireDriver(int version) {
        if (version < OLDEST_DRIVER) {
            throw new UserException("The NVIDIA driver of this machine runs CUDA " + version / 1000 + "."
                    + version % 1000 / 10 + ", and Troika needs 12.0 or newer: update the driver.");
        }
    }

    static void requireCard(int ordinal, int count) {
        if (ordinal >= count) {
            throw new UserException("--devices cuda:" + ordinal + " names a card that is not there: the driver has "
                    + (count == 0 ? "none" : count == 1 ? "one, cuda:0" : count + ", cuda:0 to cuda:" + (count - 1))
                    + visible(System.getenv("CUDA_VISIBLE_DEVICES")) + ".");
        }
    }

    static void requireCapability(int ordinal, String card, int capability) {
        if (capability < OLDEST_CAPABILITY) {
            throw new UserException("Card cuda:" + ordinal + " (" + card + ") has compute capability "
                    + capability / 10 + "." + capability % 10
                    + ", and Troika needs 8.0 (Ampere) or newer: name another "
                    + "card, or train with --devices cpu.");
        }
    }

    private static String visible(@Nullable String variable) {
        return variable == null ? "" : " (CUDA_VISIBLE_DEVICES is '" + variable + "')";
    }
}
