package troika.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import troika.plan.Microbatch;
import troika.tensor.DType;
import troika.train.data.BatchCursor;
import troika.train.data.Dataset;
import troika.train.data.SyntheticDataset;

class FeedTest {
    private static final int LENGTH = 4;

    private static final Dataset DATA = new SyntheticDataset(1000, LENGTH, 1);

    private final Map<String, MemorySegment> tensors = new HashMap<>();

    private final RankMemory memory = new RankMemory() {
        @Override
        public int worldSize() {
            throw new UnsupportedOperationException();
        }

        @Override
        public boolean has(int rank, String tensor) {
            return tensors.containsKey(rank + " " + tensor);
        }

        @Override
        public long elements(int rank, String tensor) {
            throw new UnsupportedOperationException();
        }

        @Override
        public DType dtype(int rank, String tensor) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void write(int rank, String tensor, long first, MemorySegment from) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void read(int rank, String tensor, long first, MemorySegment to) {
            throw new UnsupportedOperationException();
        }

        @Override
        public MemorySegment host(int rank, String tensor) {
            return Objects.requireNonNull(tensors.get(rank + " " + tensor), tensor);
        }
    };

    private void add(int rank, String input, int i, int sequences) {
        tensors.put(rank + " host " + input + " " + i, MemorySegment.ofArray(new int[sequences * LENGTH]));
    }

    /// Asserts that a tensor has an input of these samples; −1: one that counts for nothing.
    private void assertHas(int rank, String input, int i, int... samples) {
        List<Integer> expected = new ArrayList<>();
        for (int sample : samples) {
            int[][] values = {new int[LENGTH], new int[LENGTH], {0, 1, 2, 3}};
            Arrays.fill(values[1], Dataset.IGNORED);
            if (sample >= 0) {
                DATA.read(
                        sample,
                        MemorySegment.ofArray(values[0]),
                        MemorySegment.ofArray(values[1]),
                        MemorySegment.ofArray(values[2]));
            }
            Arrays.stream(values[List.of("tokens", "labels", "positions").indexOf(input)])
                    .forEach(expected::add);
        }
        assertThat(Arrays.stream(memory.host(rank, "host " + input + " " + i).toArray(ValueLayout.JAVA_INT))
                        .boxed()
                        .toList())
                .isEqualTo(expected);
    }

    /// `0,1:dp2 | 2`: the first stage has tokens, the second labels, both positions.
    @Test
    void aMicrobatchIsTheSameOnAllThatRunIt() {
        List<Microbatch> all =
                List.of(new Microbatch(0, 3), new Microbatch(1, 2), new Microbatch(2, 2), new Microbatch(3, 0));
        List<List<Microbatch>> microbatches =
                List.of(List.of(all.get(0), all.get(2)), List.of(all.get(1), all.get(3)), all);
        for (int rank = 0; rank < 3; rank++) {
            for (int i = 0; i < microbatches.get(rank).size(); i++) {
                add(rank, "positions", i, microbatches.get(rank).get(i).sequences());
                add(
                        rank,
                        rank < 2 ? "tokens" : "labels",
                        i,
                        microbatches.get(rank).get(i).sequences());
            }
        }
        Feed feed = new Feed(memory, microbatches, LENGTH);
        assertThat(feed.sequences()).isEqualTo(7);
        long targets = feed.fill(DATA, new BatchCursor(0, 50).next(DATA, 7));
        assertThat(targets).isEqualTo(7 * LENGTH);
        assertHas(0, "tokens", 0, 50, 51, 52);
        assertHas(1, "tokens", 0, 53, 54);
        assertHas(0, "tokens", 1, 55, 56);
        assertHas(0, "positions", 1, 55, 56);
        assertHas(2, "labels", 0, 50, 51, 52);
        assertHas(2, "positions", 1, 53, 54);
        assertHas(2, "labels", 2, 55, 56);
        // Where a message says which sequence it was.
        assertThat(feed.sequence(2, 1, 5)).isEqualTo(4);
        assertThat(feed.sequence(0, 1, 0)).isEqualTo(5);
    }

    /// The tensor ranks of one replica, at the end of an epoch.
    @Test
    void aShortBatchIsPadded() {
        List<Microbatch> both = List.of(new Microbatch(0, 2), new Microbatch(1, 2));
        for (int rank = 0; rank < 2; rank++) {
            for (int i = 0; i < 2; i++) {
                add(rank, "tokens", i, 2);
                add(rank, "labels", i, 2);
                add(rank, "positions", i, 2);
            }
        }
        Feed feed = new Feed(memory, List.of(both, both), LENGTH);
        feed.fill(DATA, new BatchCursor(0, 10).next(DATA, 4));
        long targets = feed.fill(DATA, new BatchCursor.Batch(997, 3, BatchCursor.START));
        assertThat(targets).isEqualTo(3 * LENGTH);
        for (int rank = 0; rank < 2; rank++) {
            assertHas(rank, "tokens", 0, 997, 998);
            assertHas(rank, "tokens", 1, 999, -1);
            assertHas(rank, "labels", 1, 999, -1);
            assertHas(rank, "positions", 1, 999, -1);
        }
    }
}
