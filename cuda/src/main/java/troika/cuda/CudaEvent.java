package troika.cuda;

import troika.tensor.TimedEvent;

/// An event of the driver. One that was never recorded holds nobody up, as the driver has it too.
final class CudaEvent implements TimedEvent {
    private final CudaDevice device;
    private final long handle;

    /// @param timed whether [#secondsSince] will be asked
    CudaEvent(CudaDevice device, boolean timed) {
        this.device = device;
        device.bind();
        handle = Driver.eventCreate(timed);
    }

    long handle() {
        return handle;
    }

    @Override
    public void synchronize() {
        device.bind();
        Driver.eventSynchronize(handle);
    }

    @Override
    public double secondsSince(TimedEvent earlier) {
        device.bind();
        return Driver.eventElapsed(((CudaEvent) earlier).handle, handle) * 1e-3;
    }

    void close() {
        device.bind();
        Driver.eventDestroy(handle);
    }
}
