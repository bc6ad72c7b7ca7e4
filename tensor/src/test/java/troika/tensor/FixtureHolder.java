package troika.tensor;

/// The parts of [KernelsContract] share its fixture through this.
interface FixtureHolder {
    KernelsFixture fixture();
}
