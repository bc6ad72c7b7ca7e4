package troika.cpu;

import troika.tensor.KernelsContract;
import troika.tensor.KernelsFixture;

/// The kernels of the CPU device, on two threads.
final class CpuKernelsTest extends KernelsContract {
    @Override
    protected KernelsFixture open() {
        CpuDevice device = new CpuDevice(0, 2, 10_000);
        return new KernelsFixture(device, device.workspaceBytes());
    }
}
