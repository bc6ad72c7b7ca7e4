package troika.tensor;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.TestInstance;

/// What every device's kernels must do. A device's own test extends this and opens the device; each test compares a
/// kernel with [Oracle], on sizes that no vector or tile divides.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
public abstract class KernelsContract
        implements LayerContract,
                LinearContract,
                AttentionContract,
                LossContract,
                VocabularyContract,
                OptimizerContract,
                MemoryContract,
                CastContract {
    private KernelsFixture fixture;

    /// Opens the device to test; it is closed after the last test.
    protected abstract KernelsFixture open();

    @BeforeAll
    final void openDevice() {
        fixture = open();
    }

    @BeforeEach
    final void clear() {
        fixture.clear();
    }

    @AfterAll
    final void closeDevice() {
        // None where there is no device to open.
        if (fixture != null) {
            fixture.close();
        }
    }

    @Override
    public KernelsFixture fixture() {
        return fixture;
    }
}
