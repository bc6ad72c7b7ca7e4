package troika.cuda;

import static org.junit.jupiter.api.Assumptions.abort;

import troika.tensor.UserException;

/// The card of tests that need one.
final class Cards {
    private Cards() {}

    static boolean driver() {
        try {
            CudaLibraries.driver();
            return true;
        } catch (UserException e) {
            return false;
        }
    }

    /// Card 0; skips the test, with the reason, where there is none.
    static CudaDevice open() {
        return open(true);
    }

    static CudaDevice open(boolean deterministic) {
        try {
            return (CudaDevice)
                    new CudaDeviceProvider().open("0", deterministic).getFirst();
        } catch (UserException e) {
            return abort("no card: " + e.getMessage());
        }
    }
}
