package troika.cuda;

import org.junit.jupiter.api.Tag;
import troika.tensor.Device;
import troika.tensor.KernelsContract;

/// The kernels of a card; skipped where there is none.
@Tag("gpu")
final class CudaKernelsTest extends KernelsContract {
    @Override
    protected Device open() {
        return Cards.open();
    }
}
