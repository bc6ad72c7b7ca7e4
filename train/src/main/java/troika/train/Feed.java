package troika.train;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import troika.train.data.BatchCursor;
import troika.train.data.Dataset;
import troika.train.engine.Engine;

/// Puts batches into the host tensors that a program uploads.
final class Feed {
    /// The tensors of one microbatch of one rank.
    private record Slot(
            int rank,
            int microbatch,
            int sequences,
            MemorySegment tokens,
            MemorySegment labels,
            MemorySegment positions) {}

    private final int sequenceLength;
    private final int sequences;
    private final List<Slot> slots = new ArrayList<>();
    private final List<MemorySegment> scalars = new ArrayList<>();

    /// @param batches by rank: sequences of each of its microbatches
    Feed(Engine engine, int program, List<List<Integer>> batches, int sequenceLength) {
        this.sequenceLength = sequenceLength;
        // Microbatch by microbatch over the ranks: the batch's sequences are dealt in the order of
        // microbatches.
        for (int m = 0; m < batches.getFirst().size(); m++) {
            for (int rank = 0; rank < batches.size(); rank++) {
                slots.add(new Slot(
                        rank,
                        m,
                        batches.get(rank).get(m),
                        engine.host(rank, program, "host tokens " + m),
                        engine.host(rank, program, "host labels " + m),
                        engine.host(rank, program, "host positions " + m)));
            }
        }
        for (int rank = 0; rank < batches.size(); rank++) {
            scalars.add(engine.host(rank, program, "host scalars"));
        }
        sequences = slots.stream().mapToInt(Slot::sequences).sum();
    }

    /// The sequences of a whole batch.
    int sequences() {
        return sequences;
    }

    /// Fills in a batch, a short one padded with sequences that count for nothing.
    ///
    /// @return the number of target tokens
    long fill(Dataset dataset, BatchCursor.Batch batch) {
        long bytes = 4L * sequenceLength;
        long targets = 0;
        int next = 0;
        for (Slot slot : slots) {
            for (int i = 0; i < slot.sequences(); i++, next++) {
                MemorySegment tokens = slot.tokens().asSlice(i * bytes, bytes);
                MemorySegment labels = slot.labels().asSlice(i * bytes, bytes);
                MemorySegment positions = slot.positions().asSlice(i * bytes, bytes);
                if (next < batch.size()) {
                    dataset.read(batch.first() + next, tokens, labels, positions);
                    targets += targets(labels);
                } else {
                    pad(tokens, labels, positions);
                }
            }
        }
        return targets;
    }

    /// The number in the batch, from 0, of the sequence that a token of a rank's microbatch belongs to.
    int sequence(int rank, int microbatch, long token) {
        int before = 0;
        for (Slot slot : slots) {
            if (slot.rank() == rank && slot.microbatch() == microbatch) {
                break;
            }
            before += slot.sequences();
        }
        return before + Math.toIntExact(token / sequenceLength);
    }

    /// Fills in the scalars of a step.
    ///
    /// @param correction1 1 / (1 − β₁ᵗ)
    /// @param correction2 1 / √(1 − β₂ᵗ)
    /// @param seed of the step's stochastic rounding
    /// @param scale what losses are multiplied by: loss scale / target tokens
    /// @param unscale 1 / loss scale
    void scalars(double learningRate, double correction1, double correction2, int seed, double scale, double unscale) {
        for (MemorySegment segment : scalars) {
            segment.setAtIndex(ValueLayout.JAVA_FLOAT, 0, (float) learningRate);
            segment.setAtIndex(ValueLayout.JAVA_FLOAT, 1, (float) correction1);
            segment.setAtIndex(ValueLayout.JAVA_FLOAT, 2, (float) correction2);
            segment.setAtIndex(ValueLayout.JAVA_INT, 3, seed);
            segment.setAtIndex(ValueLayout.JAVA_FLOAT, 4, (float) scale);
            segment.setAtIndex(ValueLayout.JAVA_FLOAT, 5, (float) unscale);
        }
    }

    private long targets(MemorySegment labels) {
        long count = 0;
        for (int i = 0; i < sequenceLength; i++) {
            if (labels.getAtIndex(ValueLayout.JAVA_INT, i) >= 0) {
                count++;
            }
        }
        return count;
    }

    private void pad(MemorySegment tokens, MemorySegment labels, MemorySegment positions) {
        for (int i = 0; i < sequenceLength; i++) {
            tokens.setAtIndex(ValueLayout.JAVA_INT, i, 0);
            labels.setAtIndex(ValueLayout.JAVA_INT, i, Dataset.IGNORED);
            positions.setAtIndex(ValueLayout.JAVA_INT, i, i);
        }
    }
}
