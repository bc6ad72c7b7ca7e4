package troika.train.data;

/// Counter-based random numbers (the finaliser of SplitMix64): the same on every JDK, and without state.
public final class SplitMix {
    private SplitMix() {}

    static long mix(long z) {
        long a = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        long b = (a ^ (a >>> 27)) * 0x94D049BB133111EBL;
        return b ^ (b >>> 31);
    }

    /// Number `counter` of the stream named by a seed.
    public static long at(long seed, long counter) {
        return mix(seed + (counter + 1) * 0x9E3779B97F4A7C15L);
    }

    /// Scales 64 random bits to `[0, bound)`; the bias is below 2⁻³².
    static int bounded(long random, int bound) {
        return (int) Math.unsignedMultiplyHigh(random, bound);
    }
}
