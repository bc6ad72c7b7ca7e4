package troika.train.engine;

import java.util.ArrayList;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import troika.comm.Communicator;
import troika.comm.Communicators;
import troika.plan.StepProgram;
import troika.tensor.Device;
import troika.tensor.Kernels;
import troika.tensor.Stream;

/// Devices and communicators that dawdle: before a kernel or collective runs, its stream sleeps now and then,
/// for up to milliseconds, so that lanes and ranks overtake one another as they never would. Only for devices
/// whose streams run functions.
final class Delays {
    private final long seed;
    private final AtomicLong calls = new AtomicLong();
    private final IdentityHashMap<Device, Device> targets = new IdentityHashMap<>();

    Delays(long seed) {
        this.seed = seed;
    }

    /// An Engine of delayed ranks.
    static Engine engine(List<StepProgram> programs, List<Device> devices, long seed) {
        Delays delays = new Delays(seed);
        return new Engine(programs, devices.stream().map(delays::device).toList(), delays::group, true);
    }

    Device device(Device target) {
        Kernels kernels = Recording.wrap(Kernels.class, target.kernels(), (kernel, method, arguments) -> {
            delay((Stream) arguments[0]);
            return Recording.call(kernel, method, arguments);
        });
        Device delayed = Recording.wrap(
                Device.class,
                target,
                (device, method, arguments) ->
                        method.getName().equals("kernels") ? kernels : Recording.call(device, method, arguments));
        targets.put(delayed, target);
        return delayed;
    }

    /// The communicators of a group of delayed devices.
    List<Communicator> group(List<Device> devices) {
        List<Communicator> group = new ArrayList<>();
        for (Communicator communicator : Communicators.create(devices.stream()
                .map(device -> Objects.requireNonNull(targets.get(device)))
                .toList())) {
            group.add(Recording.wrap(Communicator.class, communicator, (target, method, arguments) -> {
                if (arguments.length > 0 && arguments[0] instanceof Stream stream) {
                    delay(stream);
                }
                return Recording.call(target, method, arguments);
            }));
        }
        return group;
    }

    private void delay(Stream stream) {
        stream.enqueue(() -> {
            // Mixed as SplitMix does it; each run of a captured call is another.
            long bits = (seed << 32) + calls.incrementAndGet() * 0x9e3779b97f4a7c15L;
            bits = (bits ^ (bits >>> 30)) * 0xbf58476d1ce4e5b9L;
            bits = (bits ^ (bits >>> 27)) * 0x94d049bb133111ebL;
            bits ^= bits >>> 31;
            switch ((int) (bits & 31)) {
                case 0 -> LockSupport.parkNanos((bits >>> 8) % 2_000_000);
                case 1, 2, 3 -> LockSupport.parkNanos((bits >>> 8) % 200_000);
                default -> {}
            }
        });
    }
}
