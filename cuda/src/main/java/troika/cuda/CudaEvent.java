package troika.cuda;

import troika.tensor.Event;

/// An event of the driver, without timing. One that was never recorded holds nobody up, as the driver has
/// it too.
final class CudaEvent implements Event {
    private final CudaDevice device;
    private final long handle;

    CudaEvent(CudaDevice device) {
        this.device = device;
        device.bind();
        handle = Driver.eventCreate(false);
    }

    long handle() {
        return handle;
    }

    @Override
    public void synchronize() {
        device.bind();
        Driver.eventSynchronize(handle);
    }

    void close() {
        device.bind();
        Driver.eventDestroy(handle);
    }
}
