package troika.graph;

import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.stream.IntStream;

/// Splits n units over k parts, one behind the other: evenly or by weight, as well as whole units allow. By
/// largest remainder; of equal remainders the first parts get more.
public final class Shares {
    private final long[] starts;

    /// Parts that differ by at most one unit, the first the larger.
    public Shares(long units, int parts) {
        this(units, parts < 1 ? List.of() : Collections.nCopies(parts, 1.0), 0);
    }

    /// Parts in proportion to weights, which are not negative and not all 0.
    ///
    /// @param least units that each part gets, whatever its weight
    public Shares(long units, List<Double> weights, long least) {
        int parts = weights.size();
        double total = weights.stream().mapToDouble(Double::doubleValue).sum();
        if (units < 0 || parts == 0 || least * parts > units || !(total > 0) || !Double.isFinite(total)) {
            throw new IllegalArgumentException(
                    "cannot split " + units + " units over " + parts + " parts of at least " + least);
        }
        long[] sizes = new long[parts];
        double[] remainders = new double[parts];
        long given = 0;
        for (int i = 0; i < parts; i++) {
            double exact = (double) units * (weights.get(i) / total);
            sizes[i] = (long) exact;
            remainders[i] = exact - (double) sizes[i];
            given += sizes[i];
        }
        List<Integer> byRemainder = IntStream.range(0, parts)
                .boxed()
                .sorted(Comparator.comparingDouble((Integer i) -> -remainders[i])
                        .thenComparing(i -> i))
                .toList();
        // Rounding may have given a unit too many or too few of a very large number.
        for (int turn = 0; given != units; turn++) {
            int i = byRemainder.get(turn % parts);
            int step = given < units ? 1 : sizes[i] > 0 ? -1 : 0;
            sizes[i] += step;
            given += step;
        }
        for (int i = 0; i < parts; i++) {
            while (sizes[i] < least) {
                sizes[largest(sizes)]--;
                sizes[i]++;
            }
        }
        starts = new long[parts + 1];
        for (int i = 0; i < parts; i++) {
            starts[i + 1] = starts[i] + sizes[i];
        }
    }

    private static int largest(long[] sizes) {
        return IntStream.range(0, sizes.length)
                .boxed()
                .max(Comparator.comparingLong(i -> sizes[i]))
                .orElseThrow();
    }

    public int parts() {
        return starts.length - 1;
    }

    /// The units of part `i`.
    public long size(int i) {
        return starts[i + 1] - starts[i];
    }

    /// The first unit of part `i`; `start(parts())` is n.
    public long start(int i) {
        return starts[i];
    }
}
