package troika.cuda;

import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Tag;
import troika.tensor.Device;
import troika.tensor.KernelsContract;
import troika.tensor.UserException;

/// The kernels of a card; skipped where there is none.
@Tag("gpu")
final class CudaKernelsTest extends KernelsContract {
    @Override
    protected Device open() {
        try {
            return new CudaDeviceProvider().open("0", true).getFirst();
        } catch (UserException e) {
            return Assumptions.abort(e.getMessage());
        }
    }
}
