package troika.comm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import troika.tensor.DType;
import troika.tensor.Tensor;

@Timeout(60)
class InProcessGroupTest {
    private static final DType[] SUMMED = {DType.F32, DType.BF16, DType.F16};

    /// Ranks with a stream each.
    private static final class Ranks implements AutoCloseable {
        private final List<Communicator> communicators;
        private final List<TestStream> streams = new ArrayList<>();

        Ranks(int size) {
            communicators = InProcessGroup.create(size);
            communicators.forEach(_ -> streams.add(new TestStream()));
        }

        Communicator at(int rank) {
            return communicators.get(rank);
        }

        TestStream stream(int rank) {
            return streams.get(rank);
        }

        void synchronize() {
            streams.forEach(TestStream::synchronize);
        }

        @Override
        public void close() {
            streams.forEach(TestStream::close);
        }
    }

    /// Sizes that differ, some of them 0.
    private static long[] shards(Random random, int ranks) {
        long[] sizes = new long[ranks];
        for (int i = 0; i < ranks; i++) {
            sizes[i] = random.nextInt(4) == 0 ? 0 : random.nextInt(200);
        }
        return sizes;
    }

    private static long start(long[] shards, int rank) {
        return Arrays.stream(shards, 0, rank).sum();
    }

    /// Element i of the sum: in fp32, in the order of ranks. A sum of two floats in float64 rounded to float32 is
    /// the float32 sum.
    private static float sum(List<Tensor> addends, int i) {
        float total = Numbers.get(addends.getFirst(), i);
        for (int r = 1; r < addends.size(); r++) {
            total = (float) ((double) total + Numbers.get(addends.get(r), i));
        }
        return Numbers.rounded(addends.getFirst().dtype(), total);
    }

    private static float[] sums(List<Tensor> addends) {
        float[] sums = new float[(int) addends.getFirst().elements()];
        for (int i = 0; i < sums.length; i++) {
            sums[i] = sum(addends, i);
        }
        return sums;
    }

    @Property(tries = 100)
    void allReduceSumsInTheOrderOfRanks(@ForAll @IntRange(min = 1, max = 5) int size, @ForAll int seed) {
        Random random = new Random(seed);
        DType dtype = SUMMED[random.nextInt(3)];
        try (Ranks ranks = new Ranks(size);
                Numbers numbers = new Numbers()) {
            for (int repeat = 0; repeat < 3; repeat++) {
                long n = random.nextInt(500);
                List<Tensor> tensors = new ArrayList<>();
                for (int r = 0; r < size; r++) {
                    tensors.add(numbers.random(random, dtype, n));
                }
                float[] expected = sums(tensors);
                long before = received(ranks, size);
                for (int r = 0; r < size; r++) {
                    ranks.at(r).allReduce(ranks.stream(r), tensors.get(r));
                }
                ranks.synchronize();
                for (Tensor tensor : tensors) {
                    assertThat(Numbers.floats(tensor)).isEqualTo(expected);
                }
                // Each element is summed by one rank out of the others' memory and copied by the others.
                assertThat(received(ranks, size) - before).isEqualTo(2L * (size - 1) * n * dtype.bytes());
            }
        }
    }

    private static long received(Ranks ranks, int size) {
        long bytes = 0;
        for (int r = 0; r < size; r++) {
            bytes += ranks.at(r).bytesReceived();
        }
        return bytes;
    }

    @Property(tries = 100)
    void reduceScatterLeavesEachItsShard(
            @ForAll @IntRange(min = 1, max = 5) int size, @ForAll int seed, @ForAll boolean inPlace) {
        Random random = new Random(seed);
        DType dtype = SUMMED[random.nextInt(3)];
        long[] sizes = shards(random, size);
        long n = start(sizes, size);
        try (Ranks ranks = new Ranks(size);
                Numbers numbers = new Numbers()) {
            List<Tensor> fulls = new ArrayList<>();
            List<Tensor> shards = new ArrayList<>();
            for (int r = 0; r < size; r++) {
                Tensor full = numbers.random(random, dtype, n);
                fulls.add(full);
                shards.add(inPlace ? Numbers.part(full, start(sizes, r), sizes[r]) : numbers.tensor(dtype, sizes[r]));
            }
            float[] expected = sums(fulls);
            for (int r = 0; r < size; r++) {
                ranks.at(r).reduceScatter(ranks.stream(r), fulls.get(r), shards.get(r));
            }
            ranks.synchronize();
            for (int r = 0; r < size; r++) {
                int start = (int) start(sizes, r);
                assertThat(Numbers.floats(shards.get(r)))
                        .isEqualTo(Arrays.copyOfRange(expected, start, (int) (start + sizes[r])));
                assertThat(ranks.at(r).bytesReceived()).isEqualTo((size - 1) * sizes[r] * dtype.bytes());
            }
        }
    }

    @Property(tries = 100)
    void allGatherCollectsTheShards(
            @ForAll @IntRange(min = 1, max = 5) int size,
            @ForAll int seed,
            @ForAll boolean inPlace,
            @ForAll DType dtype) {
        Random random = new Random(seed);
        long[] sizes = shards(random, size);
        long n = start(sizes, size);
        try (Ranks ranks = new Ranks(size);
                Numbers numbers = new Numbers()) {
            Tensor expected = numbers.random(random, dtype, n);
            List<Tensor> fulls = new ArrayList<>();
            for (int r = 0; r < size; r++) {
                Tensor full = numbers.tensor(dtype, n);
                fulls.add(full);
                Tensor shard =
                        inPlace ? Numbers.part(full, start(sizes, r), sizes[r]) : numbers.tensor(dtype, sizes[r]);
                for (long i = 0; i < sizes[r]; i++) {
                    Numbers.set(shard, i, Numbers.get(expected, start(sizes, r) + i));
                }
                ranks.at(r).allGather(ranks.stream(r), shard, full);
            }
            ranks.synchronize();
            for (Tensor full : fulls) {
                assertThat(Numbers.bytes(full)).isEqualTo(Numbers.bytes(expected));
            }
        }
    }

    /// Ties go to even, in vectors and in what is left of them; what is not finite stays so.
    @Test
    void roundsOnceAndKeepsWhatIsNotFinite() {
        float[][] cases = {
            {1, 0x1p-9f}, // a tie in BF16 after 8 bits: 1 + 2⁻⁸ is its neighbour
            {1, 0x1p-8f},
            {1 + 0x1p-7f, 0x1p-8f},
            {1, 0x1p-11f},
            {1 + 0x1p-10f, 0x1p-11f},
            {Float.NaN, 1},
            {Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY},
            {Float.NEGATIVE_INFINITY, 3},
            {65504, 65504},
            {0x1.fep127f, 0x1.fep127f},
            {-0f, -0f},
            {0x1p-24f, 0x1p-24f},
        };
        int repeats = 16;
        for (DType dtype : SUMMED) {
            try (Ranks ranks = new Ranks(2);
                    Numbers numbers = new Numbers()) {
                List<Tensor> tensors = new ArrayList<>();
                for (int r = 0; r < 2; r++) {
                    Tensor tensor = numbers.tensor(dtype, (long) repeats * cases.length + 5);
                    for (int i = 0; i < tensor.elements(); i++) {
                        Numbers.set(tensor, i, cases[i % cases.length][r]);
                    }
                    tensors.add(tensor);
                }
                float[] expected = sums(tensors);
                for (int r = 0; r < 2; r++) {
                    ranks.at(r).allReduce(ranks.stream(r), tensors.get(r));
                }
                ranks.synchronize();
                assertThat(Numbers.floats(tensors.get(0))).isEqualTo(expected);
                assertThat(Numbers.floats(tensors.get(1))).isEqualTo(expected);
                assertThat(expected[5]).isNaN();
                assertThat(expected[6]).isNaN();
                assertThat(expected[7]).isEqualTo(Float.NEGATIVE_INFINITY);
            }
        }
    }

    @Test
    void shardsThatAreNotTheWholeAreNamed() {
        try (Ranks ranks = new Ranks(3);
                Numbers numbers = new Numbers()) {
            for (int r = 0; r < 3; r++) {
                Tensor full = numbers.tensor(DType.F32, 10);
                ranks.at(r).allGather(ranks.stream(r), numbers.tensor(DType.F32, r + 2), full);
            }
            for (int r = 0; r < 3; r++) {
                assertThatThrownBy(ranks.stream(r)::synchronize)
                        .hasMessage("the ranks of a collective do not fit together: "
                                + "rank 0 is in an all-gather of 10 elements of F32 with a shard of 2; "
                                + "rank 1 is in an all-gather of 10 elements of F32 with a shard of 3; "
                                + "rank 2 is in an all-gather of 10 elements of F32 with a shard of 4");
            }
        }
    }

    @Test
    void differentCollectivesAreNamed() {
        try (Ranks ranks = new Ranks(2);
                Numbers numbers = new Numbers()) {
            ranks.at(0).allReduce(ranks.stream(0), numbers.tensor(DType.F32, 3));
            ranks.at(1).allReduce(ranks.stream(1), numbers.tensor(DType.BF16, 3));
            assertThatThrownBy(ranks::synchronize)
                    .hasMessageContaining("rank 1 is in an all-reduce of 3 elements of BF16");
        }
        try (Ranks ranks = new Ranks(2);
                Numbers numbers = new Numbers()) {
            ranks.at(0).allReduce(ranks.stream(0), numbers.tensor(DType.F32, 3));
            ranks.at(1).reduceScatter(ranks.stream(1), numbers.tensor(DType.F32, 3), numbers.tensor(DType.F32, 3));
            assertThatThrownBy(ranks::synchronize)
                    .hasMessageContaining("rank 1 is in a reduce-scatter of 3 elements of F32 with a shard of 3");
        }
        try (Ranks ranks = new Ranks(2);
                Numbers numbers = new Numbers()) {
            Tensor ints = numbers.tensor(DType.I32, 3);
            assertThatThrownBy(() -> ranks.at(0).allReduce(ranks.stream(0), ints))
                    .hasMessage("there are no sums of I32");
            assertThatThrownBy(() -> ranks.at(0).send(ranks.stream(0), ints, 2))
                    .hasMessage("rank 2 does not exist in a group of 2 ranks");
        }
    }

    /// Every rank sends to every rank, itself too, tensors of all sizes at once, in both directions.
    @Property(tries = 15)
    void whatIsSentArrivesInOrder(@ForAll @IntRange(min = 1, max = 4) int size, @ForAll int seed) {
        Random random = new Random(seed);
        int messages = 40;
        List<TestStream> streams = new ArrayList<>();
        List<Tensor> sent = new ArrayList<>();
        List<Tensor> received = new ArrayList<>();
        List<Communicator> group = InProcessGroup.create(size);
        try (Numbers numbers = new Numbers()) {
            for (int from = 0; from < size; from++) {
                for (int to = 0; to < size; to++) {
                    TestStream sending = new TestStream();
                    TestStream receiving = new TestStream();
                    streams.add(sending);
                    streams.add(receiving);
                    for (int i = 0; i < messages; i++) {
                        DType dtype = DType.values()[random.nextInt(4)];
                        Tensor tensor = numbers.random(random, dtype, random.nextInt(300));
                        Tensor target = numbers.tensor(dtype, tensor.elements());
                        sent.add(tensor);
                        received.add(target);
                        group.get(from).send(sending, tensor, to);
                        group.get(to).receive(receiving, target, from);
                    }
                }
            }
            streams.forEach(TestStream::synchronize);
            long bytes = 0;
            for (int i = 0; i < sent.size(); i++) {
                assertThat(Numbers.bytes(received.get(i))).isEqualTo(Numbers.bytes(sent.get(i)));
                int pair = i / messages;
                bytes += pair / size == pair % size ? 0 : sent.get(i).bytes();
            }
            assertThat(group.stream().mapToLong(Communicator::bytesReceived).sum())
                    .isEqualTo(bytes);
        } finally {
            streams.forEach(TestStream::close);
        }
    }

    @Test
    void aTransferOfTwoSizesFailsOnBothSides() {
        try (Ranks ranks = new Ranks(2);
                Numbers numbers = new Numbers()) {
            ranks.at(0).send(ranks.stream(0), numbers.tensor(DType.F32, 3), 1);
            ranks.at(1).receive(ranks.stream(1), numbers.tensor(DType.BF16, 3), 0);
            for (int r = 0; r < 2; r++) {
                assertThatThrownBy(ranks.stream(r)::synchronize)
                        .hasMessage("rank 0 sends F32[3] to rank 1, which receives BF16[3]");
            }
        }
    }

    @Test
    void anAbortEndsAllWaits() throws InterruptedException {
        for (int waiting = 0; waiting < 3; waiting++) {
            try (Ranks ranks = new Ranks(3);
                    Numbers numbers = new Numbers()) {
                Tensor tensor = numbers.tensor(DType.F32, 6);
                switch (waiting) {
                    case 0 -> ranks.at(0).send(ranks.stream(0), tensor, 2);
                    case 1 -> ranks.at(0).receive(ranks.stream(0), tensor, 2);
                    default -> {
                        ranks.at(0).allReduce(ranks.stream(0), tensor);
                        ranks.at(1).allReduce(ranks.stream(1), numbers.tensor(DType.F32, 6));
                    }
                }
                if (waiting == 1) {
                    Thread.sleep(20);
                }
                ranks.at(2).abort(new IllegalStateException("out of cheese"));
                ranks.at(1).abort(new IllegalStateException("news of it"));
                assertThatThrownBy(ranks.stream(0)::synchronize)
                        .hasMessage("another rank failed")
                        .hasRootCauseMessage("out of cheese");
                // And what comes later.
                ranks.at(2).allReduce(ranks.stream(2), numbers.tensor(DType.F32, 6));
                assertThatThrownBy(ranks.stream(2)::synchronize).hasRootCauseMessage("out of cheese");
            }
        }
    }

    /// Aborts at any moment: nobody hangs, and who has read a sum has read a whole one.
    @Property(tries = 40)
    void abortsInTheMiddle(@ForAll @IntRange(min = 2, max = 4) int size, @ForAll int seed) throws InterruptedException {
        Random random = new Random(seed);
        try (Ranks ranks = new Ranks(size);
                Numbers numbers = new Numbers()) {
            List<Tensor> tensors = new ArrayList<>();
            for (int r = 0; r < size; r++) {
                Tensor tensor = numbers.tensor(DType.F32, 1000);
                tensors.add(tensor);
                for (int i = 0; i < tensor.elements(); i++) {
                    Numbers.set(tensor, i, 0x1p-60f);
                }
                for (int i = 0; i < 30; i++) {
                    ranks.at(r).allReduce(ranks.stream(r), tensor);
                }
            }
            Thread.sleep(0, random.nextInt(400_000));
            ranks.at(0).abort(new IllegalStateException("aborted"));
            for (int r = 0; r < size; r++) {
                try {
                    ranks.stream(r).synchronize();
                } catch (IllegalStateException e) {
                    assertThat(e).hasRootCauseMessage("aborted");
                }
            }
            // All ranks ended behind the same collective.
            for (Tensor tensor : tensors) {
                assertThat(Numbers.floats(tensor)).containsOnly(Numbers.get(tensors.getFirst(), 0));
            }
        }
    }
}
