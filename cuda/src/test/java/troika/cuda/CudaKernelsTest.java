package troika.cuda;

import org.junit.jupiter.api.Tag;
import troika.tensor.KernelsContract;
import troika.tensor.KernelsFixture;

/// The kernels of a card; skipped where there is none.
@Tag("gpu")
final class CudaKernelsTest extends KernelsContract {
    @Override
    protected KernelsFixture open() {
        CudaDevice device = Cards.open();
        return new KernelsFixture(device, device.workspaceBytes());
    }
}
