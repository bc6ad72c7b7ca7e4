package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;
import troika.comm.Communicator;
import troika.cuda.CardGroup.Ways;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Tensor;

/// Collectives of ranks that share a card, against plain loops. Each round writes its tensors on the lane behind work
/// that takes a while, and overwrites them behind the collective, and no host waits before the last round: an event
/// that is missing shows as a wrong number.
@Tag("gpu")
@Timeout(300)
class CudaGroupTest {
    private static final long SPACE = 256;

    private enum Collective {
        ALL_REDUCE,
        REDUCE_SCATTER,
        ALL_GATHER
    }

    static List<Arguments> groups() {
        List<Arguments> groups = new ArrayList<>();
        for (int ranks : new int[] {1, 2, 3, 5}) {
            for (Ways ways : ranks < 3 ? List.of(Ways.DIRECT, Ways.HOST) : List.of(Ways.values())) {
                groups.add(Arguments.of(ranks, ways));
            }
        }
        return groups;
    }

    @ParameterizedTest
    @MethodSource("groups")
    void collectivesOfAllDtypesAndSizes(int ranks, Ways ways) throws Exception {
        try (CardGroup group = new CardGroup(ranks, ways)) {
            for (DType dtype : DType.values()) {
                for (Collective collective : Collective.values()) {
                    if (dtype.isFloating() || collective == Collective.ALL_GATHER) {
                        for (int n : new int[] {0, 1, 5, 1000, 32_771}) {
                            new Rounds(group, collective, dtype, n, 4).run();
                        }
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("groups")
    void fiftyRoundsWithoutAnyWaitOfTheHost(int ranks, Ways ways) throws Exception {
        try (CardGroup group = new CardGroup(ranks, ways)) {
            for (Collective collective : Collective.values()) {
                new Rounds(group, collective, DType.BF16, 10_007, 50).run();
                new Rounds(group, collective, DType.F32, 40_009, 50).run();
            }
        }
    }

    /// Several pieces of staging memory, of which the last is a part.
    @ParameterizedTest
    @CsvSource({"2, DIRECT", "2, HOST", "3, HOST", "3, STAR", "3, MIXED", "5, DIRECT", "5, HOST", "5, STAR", "5, MIXED"
    })
    void tensorsLargerThanStagingMemory(int ranks, Ways ways) throws Exception {
        try (CardGroup group = new CardGroup(ranks, ways)) {
            for (Collective collective : Collective.values()) {
                new Rounds(group, collective, DType.F32, 6_500_003, 2).run();
            }
        }
    }

    /// Several sums, of several pieces each where there are stores.
    @ParameterizedTest
    @CsvSource({"2, DIRECT", "2, HOST", "3, DIRECT", "3, HOST", "3, STAR", "3, MIXED"})
    void partsLargerThanWhatIsSummedAtOnce(int ranks, Ways ways) throws Exception {
        try (CardGroup group = new CardGroup(ranks, ways, 2 * Exchange.HALF_BYTES)) {
            new Rounds(group, Collective.REDUCE_SCATTER, DType.F32, 9_500_003, 2).run();
        }
    }

    /// Rounds of one collective: each rank's inputs of all rounds lie ready on the card.
    private static final class Rounds {
        private final CardGroup group;
        private final Collective collective;
        private final DType dtype;
        private final int n;
        private final int rounds;
        /// Bytes of a tensor with space around, and of a slot for a round.
        private final long slot;

        private final int[] starts;

        Rounds(CardGroup group, Collective collective, DType dtype, int n, int rounds) {
            this.group = group;
            this.collective = collective;
            this.dtype = dtype;
            this.n = n;
            this.rounds = rounds;
            slot = ((long) n * dtype.bytes() / SPACE + 3) * SPACE;
            int ranks = group.size();
            starts = new int[ranks + 1];
            // Parts of 1, 2, 3, ... of ranks · (ranks + 1) / 2.
            for (int i = 0; i <= ranks; i++) {
                starts[i] = (int) ((long) n * i * (i + 1) / ((long) ranks * (ranks + 1)));
            }
        }

        private String text() {
            return collective + " of " + dtype + "[" + n + "], " + group.size() + " ranks";
        }

        void run() throws Exception {
            group.run(this::rank);
        }

        private void rank(int rank) {
            Communicator communicator = group.communicators.get(rank);
            CudaDevice device = group.devices.get(rank);
            Memory memory = group.memory(rank, (2L * rounds + 2) * slot);
            int part = starts[rank + 1] - starts[rank];
            boolean gathers = collective == Collective.ALL_GATHER;
            for (int round = 0; round < rounds; round++) {
                byte[] in = gathers
                        ? Arrays.copyOfRange(
                                input(0, round), starts[rank] * dtype.bytes(), starts[rank + 1] * dtype.bytes())
                        : input(rank, round);
                device.write(
                        CardGroup.tensor(memory, (2 + round) * slot, dtype, in.length / dtype.bytes()),
                        MemorySegment.ofArray(in));
            }
            SplittableRandom random = new SplittableRandom(rank);
            try (CudaStream lane = group.stream(rank, "lane")) {
                for (int round = 0; round < rounds; round++) {
                    // Aligned to 16 bytes, or to an element alone; a part in place, or elsewhere.
                    long shift = round % 4 < 2 ? 0 : dtype.bytes();
                    Tensor full = CardGroup.tensor(memory, shift, dtype, n);
                    Tensor shard = round % 2 == 0
                            ? CardGroup.tensor(memory, shift + (long) starts[rank] * dtype.bytes(), dtype, part)
                            : CardGroup.tensor(memory, slot + shift, dtype, part);
                    Tensor in = gathers ? shard : full;
                    Tensor out = collective == Collective.REDUCE_SCATTER ? shard : full;
                    group.delay(rank, lane, random.nextInt(4));
                    copy(lane, in.address(), memory.address() + (2 + round) * slot, in.bytes());
                    switch (collective) {
                        case ALL_REDUCE -> communicator.allReduce(lane, full);
                        case REDUCE_SCATTER -> communicator.reduceScatter(lane, full, shard);
                        case ALL_GATHER -> communicator.allGather(lane, shard, full);
                    }
                    copy(lane, memory.address() + (2L + rounds + round) * slot, out.address(), out.bytes());
                    Driver.memsetD8Async(memory.address(), (byte) (0x40 + round), 2 * slot, lane.handle());
                }
                lane.synchronize();
            }
            for (int round = 0; round < rounds; round++) {
                byte[] expected = expected(round);
                if (collective == Collective.REDUCE_SCATTER) {
                    expected = Arrays.copyOfRange(
                            expected, starts[rank] * dtype.bytes(), starts[rank + 1] * dtype.bytes());
                }
                byte[] actual = new byte[expected.length];
                device.read(
                        CardGroup.tensor(memory, (2L + rounds + round) * slot, dtype, actual.length / dtype.bytes()),
                        MemorySegment.ofArray(actual));
                int wrong = Arrays.mismatch(actual, expected);
                if (wrong >= 0) {
                    throw new AssertionError(text() + ": rank " + rank + ", round " + round + " is wrong from element "
                            + wrong / dtype.bytes() + " on");
                }
            }
            group.free(rank, memory);
        }

        private static void copy(CudaStream stream, long to, long from, long bytes) {
            if (bytes > 0) {
                Driver.memcpyAsync(to, from, bytes, stream.handle());
            }
        }

        private byte[] expected(int round) {
            if (collective == Collective.ALL_GATHER) {
                return input(0, round);
            }
            float[] sum = Numbers.decode(dtype, input(0, round));
            for (int rank = 1; rank < group.size(); rank++) {
                float[] other = Numbers.decode(dtype, input(rank, round));
                for (int i = 0; i < n; i++) {
                    sum[i] += other[i];
                }
            }
            return Numbers.encode(dtype, sum);
        }

        /// Numbers of unlike sizes, so that another order of a sum gives another result.
        private byte[] input(int rank, int round) {
            return Numbers.random(dtype, n, 31L * round + rank);
        }
    }

    /// Numbers of each dtype in the bytes of a card's memory.
    private static final class Numbers {
        private static final ValueLayout.OfFloat F32 = ValueLayout.JAVA_FLOAT_UNALIGNED;
        private static final ValueLayout.OfShort BITS = ValueLayout.JAVA_SHORT_UNALIGNED;

        static byte[] random(DType dtype, int n, long seed) {
            SplittableRandom random = new SplittableRandom(seed);
            float[] values = new float[n];
            for (int i = 0; i < n; i++) {
                values[i] = Math.scalb(1 + random.nextInt(1 << 22) / (float) (1 << 22), random.nextInt(12) - 8)
                        * (random.nextBoolean() ? 1 : -1);
            }
            return encode(dtype, values);
        }

        static byte[] encode(DType dtype, float[] values) {
            byte[] bytes = new byte[values.length * dtype.bytes()];
            MemorySegment segment = MemorySegment.ofArray(bytes);
            for (int i = 0; i < values.length; i++) {
                float value = values[i];
                switch (dtype) {
                    case F32, I32 -> segment.setAtIndex(F32, i, value);
                    case F16 -> segment.setAtIndex(BITS, i, Float.floatToFloat16(value));
                    case BF16 -> {
                        int bits = Float.floatToRawIntBits(value);
                        segment.setAtIndex(BITS, i, (short) ((bits + 0x7fff + (bits >>> 16 & 1)) >>> 16));
                    }
                }
            }
            return bytes;
        }

        static float[] decode(DType dtype, byte[] bytes) {
            MemorySegment segment = MemorySegment.ofArray(bytes);
            float[] values = new float[bytes.length / dtype.bytes()];
            for (int i = 0; i < values.length; i++) {
                values[i] = switch (dtype) {
                    case F32, I32 -> segment.getAtIndex(F32, i);
                    case F16 -> Float.float16ToFloat(segment.getAtIndex(BITS, i));
                    case BF16 -> Float.intBitsToFloat(segment.getAtIndex(BITS, i) << 16);
                };
            }
            return values;
        }
    }

    private record Message(int from, int to, int elements) {}

    /// Sends and receives of all pairs in both directions, each rank's on two lanes.
    @ParameterizedTest
    @CsvSource({"2, DIRECT", "2, HOST", "3, DIRECT", "3, HOST", "3, STAR", "5, DIRECT", "5, HOST", "5, MIXED"})
    void stormsOfSendsAndReceives(int ranks, Ways ways) throws Exception {
        int[] sizes = {0, 1, 1001, 65_536, 2_500_001};
        SplittableRandom random = new SplittableRandom(ranks);
        List<Message> messages = new ArrayList<>();
        for (int i = 0; i < 60; i++) {
            int from = random.nextInt(ranks);
            int to = (from + 1 + random.nextInt(ranks - 1)) % ranks;
            messages.add(new Message(from, to, sizes[random.nextInt(sizes.length)]));
        }
        long slot = 4L * 2_500_001 / SPACE * SPACE + 2 * SPACE;
        try (CardGroup group = new CardGroup(ranks, ways)) {
            group.run(rank -> {
                CudaDevice device = group.devices.get(rank);
                Communicator communicator = group.communicators.get(rank);
                Memory boxes = group.memory(rank, 2 * slot);
                Memory kept = group.memory(rank, messages.size() * slot);
                for (int i = 0; i < messages.size(); i++) {
                    Message message = messages.get(i);
                    if (message.from == rank) {
                        byte[] data = Numbers.random(DType.F32, message.elements, i);
                        device.write(
                                CardGroup.tensor(kept, i * slot, DType.F32, message.elements),
                                MemorySegment.ofArray(data));
                    }
                }
                SplittableRandom delays = new SplittableRandom(rank);
                long received = 0;
                try (CudaStream sends = group.stream(rank, "send");
                        CudaStream receives = group.stream(rank, "receive")) {
                    for (int i = 0; i < messages.size(); i++) {
                        Message message = messages.get(i);
                        long at = kept.address() + i * slot;
                        if (message.from == rank) {
                            Tensor out = CardGroup.tensor(boxes, 0, DType.F32, message.elements);
                            group.delay(rank, sends, delays.nextInt(3));
                            Rounds.copy(sends, out.address(), at, out.bytes());
                            communicator.send(sends, out, message.to);
                            Driver.memsetD8Async(out.address(), (byte) 0x41, slot, sends.handle());
                        } else if (message.to == rank) {
                            Tensor in = CardGroup.tensor(boxes, slot, DType.F32, message.elements);
                            group.delay(rank, receives, delays.nextInt(3));
                            communicator.receive(receives, in, message.from);
                            Rounds.copy(receives, at, in.address(), in.bytes());
                            Driver.memsetD8Async(in.address(), (byte) 0x42, slot, receives.handle());
                            received += in.bytes();
                        }
                    }
                    sends.synchronize();
                    receives.synchronize();
                }
                assertThat(communicator.bytesReceived()).isEqualTo(received);
                for (int i = 0; i < messages.size(); i++) {
                    Message message = messages.get(i);
                    if (message.to == rank) {
                        byte[] data = new byte[4 * message.elements];
                        device.read(
                                CardGroup.tensor(kept, i * slot, DType.F32, message.elements),
                                MemorySegment.ofArray(data));
                        assertThat(Arrays.mismatch(data, Numbers.random(DType.F32, message.elements, i)))
                                .as("message %d: %s", i, message)
                                .isNegative();
                    }
                }
            });
        }
    }

    /// A lane of collectives of all ranks beside a lane of another group's.
    @ParameterizedTest
    @EnumSource(Ways.class)
    void groupsOnTwoLanesAndALaneThatChanges(Ways ways) throws Exception {
        int ranks = 3;
        int rounds = 40;
        int n = 30_000;
        try (CardGroup group = new CardGroup(ranks, ways)) {
            List<? extends Communicator> others = group.group(ways);
            group.run(rank -> {
                CudaDevice device = group.devices.get(rank);
                Memory memory = group.memory(rank, 16L * n);
                Tensor a = CardGroup.tensor(memory, 0, DType.F32, n);
                Tensor b = CardGroup.tensor(memory, 8L * n, DType.F32, n);
                float[] ones = new float[n];
                Arrays.fill(ones, 1);
                device.write(a, MemorySegment.ofArray(ones));
                device.write(b, MemorySegment.ofArray(ones));
                try (CudaStream first = group.stream(rank, "first");
                        CudaStream second = group.stream(rank, "second");
                        CudaStream third = group.stream(rank, "third")) {
                    for (int round = 0; round < rounds; round++) {
                        group.delay(rank, first, (round + rank) % 3);
                        group.communicators.get(rank).allReduce(first, a);
                        if (round == 24) {
                            // So that the lane is still at work when the next collective comes on another.
                            group.delay(rank, second, 400);
                        }
                        others.get(rank).allReduce(round < 25 ? second : third, b);
                        // Before the sums of sums are no longer exact.
                        if (round % 10 == 9 && round != rounds - 1) {
                            for (CudaStream stream : List.of(first, second, third)) {
                                stream.synchronize();
                            }
                            device.write(a, MemorySegment.ofArray(ones));
                            device.write(b, MemorySegment.ofArray(ones));
                        }
                    }
                    for (CudaStream stream : List.of(first, second, third)) {
                        stream.synchronize();
                    }
                }
                float[] expected = new float[n];
                Arrays.fill(expected, (float) Math.pow(ranks, 10));
                for (Tensor tensor : List.of(a, b)) {
                    float[] sums = new float[n];
                    device.read(tensor, MemorySegment.ofArray(sums));
                    assertThat(sums).isEqualTo(expected);
                }
            });
            others.forEach(Communicator::close);
        }
    }

    @ParameterizedTest
    @EnumSource(Ways.class)
    void whatIsReadOfOthersIsCounted(Ways ways) throws Exception {
        try (CardGroup group = new CardGroup(3, ways)) {
            group.run(rank -> {
                Memory memory = group.memory(rank, 1 << 20);
                Communicator communicator = group.communicators.get(rank);
                long[] parts = {100, 0, 50};
                try (CudaStream lane = group.stream(rank, "lane")) {
                    Tensor full = CardGroup.tensor(memory, 0, DType.F32, 150);
                    Tensor shard = CardGroup.tensor(memory, 4096, DType.F32, parts[rank]);
                    communicator.allGather(lane, shard, full);
                    assertThat(communicator.bytesReceived()).isEqualTo(4 * (150 - parts[rank]));
                    communicator.reduceScatter(lane, full, shard);
                    assertThat(communicator.bytesReceived()).isEqualTo(4 * (150 + parts[rank]));
                    communicator.allReduce(lane, full);
                    assertThat(communicator.bytesReceived()).isEqualTo(4 * (450 + parts[rank]));
                    long before = communicator.bytesReceived();
                    // A third of the summands of two ranks, and two thirds of the sums.
                    communicator.allReduce(lane, CardGroup.tensor(memory, 0, DType.F32, 192_000));
                    assertThat(communicator.bytesReceived() - before).isEqualTo(4 * 4 * 64_000);
                    lane.synchronize();
                }
            });
        }
    }

    /// As far as one card shows it: a card does not reach itself as a peer.
    @Test
    void pathsAreFoundByTrying() {
        try (CardGroup group = new CardGroup(1, Ways.DIRECT)) {
            CudaDevice card = group.devices.getFirst();
            assertThat(CardPath.between(card, card).shared()).isTrue();
            assertThat(CardPath.arrives(card, card)).isTrue();
            CardPath path = CardPath.find(card, card);
            assertThat(path.direct()).isFalse();
            assertThat(path.hostRate()).isBetween(1e9, 1e12);
        }
    }

    /// What is tried on a card is as fast as it is known to be: memory of the card before the host's.
    @Test
    void theFastestRoutesAreTaken() throws Exception {
        try (CardGroup group = new CardGroup(3, Ways.DIRECT)) {
            Routes host = group.routes(Ways.HOST);
            Routes star = group.routes(Ways.STAR);
            Routes direct = group.routes(Ways.DIRECT);
            CudaCommunicatorProvider.NcclUse never =
                    CudaCommunicatorProvider.use("", 3, false, false, CudaLibraries.nccl() != null);
            CudaCommunicatorProvider.Chosen chosen =
                    CudaCommunicatorProvider.choose(group.devices, List.of(host, star, direct), never, "a test");
            assertThat(chosen.nccl()).isFalse();
            assertThat(chosen.routes()).isNotEqualTo(host);
            assertThat(chosen.why())
                    .startsWith("Collectives between ranks are Troika's own, since ranks share a card")
                    .contains(": a test. GB/s received by a rank when tried: Troika's own through pinned host memory ")
                    .contains("; Troika's own directly (ranks 0-1, 0-2), over rank 0's card (ranks 1-2) ")
                    .matches(".*; Troika's own directly [0-9.]+\\.$");
            assertThat(CudaCommunicatorProvider.choose(group.devices, List.of(host), never, "a test")
                            .why())
                    .endsWith("; data goes through pinned host memory: a test.");
        }
    }

    @Test
    void anAbortEndsWaitsAndTheStreamsStillEnd() throws Exception {
        try (CardGroup group = new CardGroup(3, Ways.DIRECT)) {
            IllegalArgumentException cause = new IllegalArgumentException("rank 2 has no more data");
            group.run(rank -> {
                Memory memory = group.memory(rank, 1 << 20);
                Tensor tensor = CardGroup.tensor(memory, 0, DType.F32, 1 << 18);
                Communicator communicator = group.communicators.get(rank);
                try (CudaStream lane = group.stream(rank, "lane")) {
                    communicator.allReduce(lane, tensor);
                    if (rank == 2) {
                        communicator.abort(cause);
                    } else {
                        assertThatThrownBy(() -> {
                                    communicator.allReduce(lane, tensor);
                                    communicator.receive(lane, tensor, 2);
                                })
                                .hasMessage("another rank failed")
                                .cause()
                                .isSameAs(cause);
                    }
                    lane.synchronize();
                }
            });
        }
    }

    @Test
    void ranksInUnlikeCollectivesAreTold() throws Exception {
        try (CardGroup group = new CardGroup(2, Ways.DIRECT)) {
            group.run(rank -> {
                Memory memory = group.memory(rank, 4096);
                try (CudaStream lane = group.stream(rank, "lane")) {
                    Tensor tensor = CardGroup.tensor(memory, 0, DType.F32, 7 + rank);
                    assertThatThrownBy(() -> group.communicators.get(rank).allReduce(lane, tensor))
                            .hasMessageContaining("rank " + rank + " is in allReduce of F32[" + (7 + rank) + "]")
                            .hasMessageContaining("rank " + (1 - rank) + " in allReduce of F32[" + (8 - rank) + "]");
                    lane.beginCapture();
                    assertThatThrownBy(() -> group.communicators.get(rank).allReduce(lane, tensor))
                            .hasMessageContaining("capture");
                    Object graph = lane.endCapture();
                    assertThat(graph).isNotNull();
                    assertThat(group.communicators.get(rank).capturable()).isFalse();
                }
            });
        }
    }

    /// What a rank's memory counts is its own, though they share a card.
    @Test
    void ranksOfACardCountTheirOwnMemory() {
        try (CardGroup group = new CardGroup(2, Ways.DIRECT)) {
            long bytes = 1L << 30;
            long[] before = IntStream.range(0, 2)
                    .mapToLong(rank -> group.devices.get(rank).memory().used())
                    .toArray();
            Memory memory = group.memory(0, bytes);
            assertThat(group.devices.get(0).memory().used() - before[0])
                    .isBetween(bytes - (64 << 20), bytes + (64 << 20));
            assertThat(group.devices.get(1).memory().used() - before[1]).isBetween(-64L << 20, 64L << 20);
            group.free(0, memory);
        }
    }
}
