package troika.train.config;

import org.jspecify.annotations.Nullable;
import troika.tensor.UserException;

/// The solved batch equation. A step takes `trainBatchSize` sequences in M = `ranks` × `accumulation`
/// microbatches; microbatch m runs on replica m mod `ranks`, and their sizes are `Shares(trainBatchSize, M)`:
/// of replicas that are equally fast they differ by at most one sequence, and the largest has `microBatchSize`. Only
/// where M divides the batch is `trainBatchSize = microBatchSize × accumulation × ranks`.
///
/// @param trainBatchSize sequences of a step, over all ranks
/// @param microBatchSize sequences of the largest microbatch
/// @param accumulation microbatches that each rank runs in a step
/// @param ranks the data-parallel size: of stages that differ in it the least common multiple
public record BatchSizes(int trainBatchSize, int microBatchSize, int accumulation, int ranks) {
    /// Sequences of a microbatch where nothing is said of batches, as HF Trainer's.
    public static final int DEFAULT_MICRO_BATCH_SIZE = 8;

    /// A number with the words that messages name it by.
    record Given(long value, String name) {
        @Override
        public String toString() {
            return name + " " + value;
        }
    }

    /// Microbatches of a step over all ranks.
    public int microbatches() {
        return ranks * accumulation;
    }

    /// Solves the equation for what is not given (null). Any two give the third; with `train` alone each
    /// rank runs one microbatch. `train` need not divide evenly, unless all three are given: then the
    /// product must be right.
    static BatchSizes solve(@Nullable Given train, @Nullable Given micro, @Nullable Given accumulation, int ranks) {
        if (train != null && micro != null && accumulation != null) {
            check(train, micro, accumulation, ranks);
        }
        if (train == null) {
            long m = micro == null ? DEFAULT_MICRO_BATCH_SIZE : micro.value();
            long a = accumulation == null ? 1 : accumulation.value();
            return of(product(m, a, ranks), m, a, ranks);
        }
        long steps;
        if (accumulation != null) {
            steps = accumulation.value();
        } else {
            steps = micro == null ? 1 : ceilDiv(train.value(), product(micro.value(), ranks, 1));
        }
        if (train.value() < product(steps, ranks, 1)) {
            throw new UserException(train + " is fewer sequences than the " + product(steps, ranks, 1)
                    + " microbatches of a step (" + ranks + " data-parallel ranks × " + steps
                    + " accumulation steps): raise it, or use fewer ranks or accumulation steps.");
        }
        return of(train.value(), ceilDiv(train.value(), product(steps, ranks, 1)), steps, ranks);
    }

    /// Refuses three numbers whose product is wrong.
    static void check(Given train, Given micro, Given accumulation, int ranks) {
        long product = product(micro.value(), accumulation.value(), ranks);
        if (product != train.value()) {
            throw new UserException(train + " contradicts " + micro + " × " + accumulation + " × " + ranks
                    + (ranks == 1 ? " data-parallel rank" : " data-parallel ranks") + " = " + product
                    + ": give any two of the three.");
        }
    }

    private static BatchSizes of(long train, long micro, long accumulation, int ranks) {
        if (Math.max(train, accumulation * ranks) > 1 << 24) {
            throw new UserException("A batch of " + train + " sequences (" + micro + " × " + accumulation + " × "
                    + ranks + ") is more than Troika's limit of " + (1 << 24) + ": lower the batch numbers.");
        }
        return new BatchSizes((int) train, (int) micro, (int) accumulation, ranks);
    }

    private static long product(long a, long b, long c) {
        try {
            return Math.multiplyExact(Math.multiplyExact(a, b), c);
        } catch (ArithmeticException e) {
            throw new UserException(
                    "The batch numbers " + a + " × " + b + " × " + c + " are too large: lower them.", e);
        }
    }

    private static long ceilDiv(long a, long b) {
        return Math.ceilDiv(a, b);
    }
}
