package troika.plan;

/// Splits n units over k ranks as evenly as whole units allow; the first ranks get the larger parts.
final class Shares {
    private final long units;
    private final int parts;

    Shares(long units, int parts) {
        if (units < 0 || parts < 1) {
            throw new IllegalArgumentException("cannot split " + units + " units over " + parts);
        }
        this.units = units;
        this.parts = parts;
    }

    /// The units of part `i`.
    long size(int i) {
        return start(i + 1) - start(i);
    }

    /// The first unit of part `i`; `start(k)` is n.
    long start(int i) {
        return i * (units / parts) + Math.min(i, units % parts);
    }
}
