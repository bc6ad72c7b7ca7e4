package troika.train.data;

/// A random order of 0 … n − 1 that needs no memory: any element of it can be computed at any time.
///
/// A Feistel network of four rounds (Luby & Rackoff 1988) permutes the smallest even number of bits that holds n;
/// results
/// that are no index are permuted again until one is (cycle walking, Black & Rogaway 2002), at most four times on
/// average.
final class Shuffle {
    private static final int ROUNDS = 4;

    private Shuffle() {}

    /// Element `i` of the order of n that `key` names.
    static long at(long i, long n, long key) {
        int half = (Long.SIZE - Long.numberOfLeadingZeros(n - 1) + 1) / 2;
        long mask = (1L << half) - 1;
        long value = i;
        do {
            long left = value >>> half;
            long right = value & mask;
            for (int round = 0; round < ROUNDS; round++) {
                long next = left ^ (SplitMix.at(key + round, right) & mask);
                left = right;
                right = next;
            }
            value = (left << half) | right;
        } while (value >= n);
        return value;
    }
}
