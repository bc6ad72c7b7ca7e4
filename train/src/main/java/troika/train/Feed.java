package troika.train;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;
import troika.plan.Microbatch;
import troika.train.data.BatchCursor;
import troika.train.data.Dataset;

/// Puts batches into the host tensors that a program uploads.
final class Feed {
    private static final List<String> INPUTS = List.of("tokens", "labels", "positions");

    /// A microbatch of the step.
    ///
    /// @param first number in the batch of its first sequence
    /// @param inputs tokens, labels and positions, on one rank or on none (then here only)
    /// @param copies where other ranks that run it have the same, by input
    private record Dealt(int sequences, int first, List<MemorySegment> inputs, List<List<MemorySegment>> copies) {}

    private final List<List<Microbatch>> microbatches;
    private final int sequenceLength;
    private final int sequences;
    /// By index.
    private final TreeMap<Integer, Dealt> dealt = new TreeMap<>();
    private final List<MemorySegment> scalars = new ArrayList<>();

    /// A rank's tensors of its i-th microbatch are `host tokens i`, `host labels i` and `host positions i`, as
    /// far as it needs them.
    ///
    /// @param microbatches by rank; the batch's sequences are dealt in the order of their indices
    Feed(RankMemory memory, List<List<Microbatch>> microbatches, int sequenceLength) {
        this.microbatches = microbatches;
        this.sequenceLength = sequenceLength;
        TreeMap<Integer, Integer> sizes = new TreeMap<>();
        TreeMap<Integer, List<List<MemorySegment>>> tensors = new TreeMap<>();
        for (int rank = 0; rank < microbatches.size(); rank++) {
            for (int i = 0; i < microbatches.get(rank).size(); i++) {
                Microbatch microbatch = microbatches.get(rank).get(i);
                Integer size = sizes.putIfAbsent(microbatch.index(), microbatch.sequences());
                if (size != null && size != microbatch.sequences()) {
                    throw new IllegalArgumentException(
                            microbatch + " on rank " + rank + " has " + size + " sequences elsewhere");
                }
                List<List<MemorySegment>> own = tensors.computeIfAbsent(
                        microbatch.index(),
                        _ -> INPUTS.stream()
                                .map(_ -> (List<MemorySegment>) new ArrayList<MemorySegment>())
                                .toList());
                for (int input = 0; input < INPUTS.size(); input++) {
                    String name = "host " + INPUTS.get(input) + " " + i;
                    if (microbatch.sequences() > 0 && memory.has(rank, name)) {
                        own.get(input).add(memory.host(rank, name));
                    }
                }
            }
            if (memory.has(rank, "host scalars")) {
                scalars.add(memory.host(rank, "host scalars"));
            }
        }
        int next = 0;
        for (var entry : sizes.entrySet()) {
            int size = entry.getValue();
            List<MemorySegment> inputs = new ArrayList<>();
            List<List<MemorySegment>> copies = new ArrayList<>();
            for (List<MemorySegment> same : tensors.getOrDefault(entry.getKey(), List.of())) {
                // What no rank needs is counted or read all the same.
                inputs.add(same.isEmpty() ? MemorySegment.ofArray(new int[size * sequenceLength]) : same.getFirst());
                copies.add(same.isEmpty() ? List.of() : List.copyOf(same.subList(1, same.size())));
            }
            dealt.put(entry.getKey(), new Dealt(size, next, inputs, copies));
            next += size;
        }
        sequences = next;
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
        for (Dealt microbatch : dealt.values()) {
            for (int i = 0; i < microbatch.sequences(); i++) {
                MemorySegment tokens = microbatch.inputs().get(0).asSlice(i * bytes, bytes);
                MemorySegment labels = microbatch.inputs().get(1).asSlice(i * bytes, bytes);
                MemorySegment positions = microbatch.inputs().get(2).asSlice(i * bytes, bytes);
                int sequence = microbatch.first() + i;
                if (sequence < batch.size()) {
                    dataset.read(batch.first() + sequence, tokens, labels, positions);
                    targets += targets(labels);
                } else {
                    pad(tokens, labels, positions);
                }
            }
            long size = microbatch.sequences() * bytes;
            for (int input = 0; input < INPUTS.size(); input++) {
                for (MemorySegment copy : microbatch.copies().get(input)) {
                    MemorySegment.copy(microbatch.inputs().get(input), 0, copy, 0, size);
                }
            }
        }
        return targets;
    }

    /// The number in the batch, from 0, of the sequence that a token belongs to.
    ///
    /// @param microbatch of the rank's own, from 0
    int sequence(int rank, int microbatch, long token) {
        int index = microbatches.get(rank).get(microbatch).index();
        Dealt of = dealt.get(index);
        if (of == null) {
            throw new IllegalArgumentException("no microbatch " + index);
        }
        return of.first() + Math.toIntExact(token / sequenceLength);
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
