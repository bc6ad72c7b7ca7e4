package troika.cpu;

import troika.tensor.Device;
import troika.tensor.KernelsContract;

/// The kernels of the CPU device, on two threads.
final class CpuKernelsTest extends KernelsContract {
    @Override
    protected Device open() {
        return new CpuDevice(0, 2, 10_000);
    }

    @Override
    protected boolean lacksF16AndNarrowMoments() {
        return true;
    }
}
