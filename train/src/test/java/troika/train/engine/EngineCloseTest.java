package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import troika.comm.Communicators;
import troika.plan.TrainingPlan;
import troika.tensor.Device;
import troika.tensor.DeviceException;
import troika.tensor.Stream;
import troika.train.TinyRun;

/// What an Engine has taken is given back where it cannot be made.
@Timeout(60)
class EngineCloseTest {
    private final Set<Object> taken = ConcurrentHashMap.newKeySet();

    /// One of three ranks fails on its way: without its second arena, one of its streams, its events.
    @ParameterizedTest
    @ValueSource(strings = {"allocate", "allocateHost", "stream", "event", "kernels"})
    void ranksThatAreReadyAreClosed(String failing) {
        TinyRun.Job job = TinyRun.job().ranks(3);
        List<Device> devices = TinyRun.devices(3);
        TrainingPlan plan = job.plan();
        List<Device> watched =
                List.of(watched(devices.get(0), ""), watched(devices.get(1), failing), watched(devices.get(2), ""));
        try {
            assertThatThrownBy(() -> new Engine(
                            List.of(plan.train(), plan.evaluate()), watched, _ -> Communicators.create(devices), false))
                    .isInstanceOf(DeviceException.class)
                    .hasMessageStartingWith("no more of " + failing);
            assertThat(taken).isEmpty();
            assertThat(Thread.getAllStackTraces().keySet())
                    .extracting(Thread::getName)
                    .doesNotContain("rank 0", "rank 1", "rank 2");
        } finally {
            devices.forEach(Device::close);
        }
    }

    /// Another rank's card may read a rank's memory as long as it has lanes.
    @Test
    void noMemoryGoesBeforeTheLanesOfAllRanksHaveEnded() {
        List<String> order = Collections.synchronizedList(new ArrayList<>());
        List<Device> devices = TinyRun.devices(3);
        List<Device> watched = new ArrayList<>();
        for (int rank = 0; rank < 3; rank++) {
            int slowness = 50 * rank;
            watched.add(Recording.wrap(Device.class, devices.get(rank), (target, method, arguments) -> {
                if (method.getName().equals("free")) {
                    order.add("freed");
                }
                Object result = Recording.call(target, method, arguments);
                return result instanceof Stream stream ? slow(stream, slowness, order) : result;
            }));
        }
        try {
            new Engine(
                            List.of(TinyRun.job().ranks(3).plan().train()),
                            watched,
                            _ -> Communicators.create(devices),
                            false)
                    .close();
            assertThat(order).contains("ended");
            assertThat(order.lastIndexOf("ended")).isLessThan(order.indexOf("freed"));
        } finally {
            devices.forEach(Device::close);
        }
    }

    private static Stream slow(Stream stream, int milliseconds, List<String> order) {
        return Recording.wrap(Stream.class, stream, (target, method, arguments) -> {
            if (method.getName().equals("close")) {
                Thread.sleep(milliseconds);
                order.add("ended");
            }
            return Recording.call(target, method, arguments);
        });
    }

    private Device watched(Device device, String failing) {
        return Recording.wrap(Device.class, device, (target, method, arguments) -> {
            if (method.getName().equals(failing)) {
                throw new DeviceException("no more of " + failing);
            }
            Object result = Recording.call(target, method, arguments);
            switch (method.getName()) {
                case "allocate", "allocateHost" -> taken.add(result);
                case "free" -> taken.remove(arguments[0]);
                default -> {}
            }
            return result;
        });
    }
}
