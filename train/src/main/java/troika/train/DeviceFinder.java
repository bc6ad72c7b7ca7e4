package troika.train;

import java.util.List;
import java.util.ServiceLoader;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.tensor.DeviceProvider;
import troika.tensor.UserException;
import troika.train.config.Devices;

/// Opens what `--devices` names.
final class DeviceFinder {
    private DeviceFinder() {}

    /// Opens them on a thread of their own, since that takes seconds on cards. What goes wrong is thrown by
    /// [#join].
    ///
    /// @param text such as "cpu:3"
    /// @param deterministic as [DeviceProvider#open] has it
    /// @return one device a rank
    static CompletableFuture<List<Device>> opening(String text, boolean deterministic) {
        Devices devices = Devices.of(text, _ -> {});
        DeviceProvider provider = provider(devices);
        return CompletableFuture.supplyAsync(
                () -> provider.open(devices.specification(), deterministic),
                task -> Thread.ofPlatform().daemon().name("devices").start(task));
    }

    /// Opens them.
    static List<Device> open(String text, boolean deterministic) {
        return join(opening(text, deterministic));
    }

    /// What a plan for these devices must know of them.
    static DeviceNeeds needs(String text, boolean deterministic) {
        Devices devices = Devices.of(text, _ -> {});
        return provider(devices).needs(devices.specification(), deterministic);
    }

    /// The devices, once they are open.
    static List<Device> join(CompletableFuture<List<Device>> opening) {
        try {
            return opening.join();
        } catch (CompletionException e) {
            if (e.getCause() instanceof RuntimeException failure) {
                throw failure;
            }
            if (e.getCause() instanceof Error failure) {
                throw failure;
            }
            throw e;
        }
    }

    /// Closes what was, or still is being, opened.
    static void close(CompletableFuture<List<Device>> opening) {
        opening.handle((devices, failure) -> devices == null ? List.<Device>of() : devices)
                .join()
                .forEach(Device::close);
    }

    private static DeviceProvider provider(Devices devices) {
        for (DeviceProvider provider : ServiceLoader.load(DeviceProvider.class)) {
            if (provider.kind().equals(devices.kind())) {
                return provider;
            }
        }
        throw new UserException(
                "There are no devices of kind " + devices.kind() + " in this build: give --devices cpu:N.");
    }
}
