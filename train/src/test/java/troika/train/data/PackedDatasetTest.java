package troika.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.IntStream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import tools.jackson.databind.json.JsonMapper;
import troika.model.ByteTokenizer;
import troika.tensor.UserException;

class PackedDatasetTest {
    private static final int EOS = 257;

    record Sample(int[] tokens, int[] labels, int[] positions) {}

    private static Sample read(Dataset dataset, long sample) {
        int s = dataset.sequenceLength();
        Sample read = new Sample(new int[s], new int[s], new int[s]);
        dataset.read(
                sample,
                MemorySegment.ofArray(read.tokens),
                MemorySegment.ofArray(read.labels),
                MemorySegment.ofArray(read.positions));
        return read;
    }

    /// Document i has the given length, and text that no other position of any document repeats nearby.
    private static TokenCache cache(Path dir, List<Integer> lengths) throws IOException {
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < lengths.size(); i++) {
            lines.append("{\"text\":\"");
            for (int j = 0; j < lengths.get(i); j++) {
                lines.append((char) ('a' + (i * 7 + j) % 26));
            }
            lines.append("\"}\n");
        }
        Path file = Files.writeString(dir.resolve("documents.jsonl"), lines);
        return TokenCache.open(Corpus.open(List.of(file.toString())), new ByteTokenizer(), dir.resolve("cache"));
    }

    private static List<String> documents(TokenCache cache) {
        List<String> documents = new ArrayList<>();
        for (int d = 0; d < cache.documents(); d++) {
            StringBuilder text = new StringBuilder();
            for (long i = cache.start(d); i < cache.start(d + 1); i++) {
                text.append((char) cache.token(i));
            }
            documents.add(text.toString());
        }
        return documents;
    }

    /// An epoch's samples, in the order in which they were cut, as one stream of tokens; each checked by
    /// itself.
    private static String stream(PackedDataset dataset, long epoch) {
        long[] cut = new long[(int) dataset.samplesPerEpoch()];
        for (int i = 0; i < cut.length; i++) {
            long sample = epoch * cut.length + i;
            cut[(int) dataset.place(sample)] = sample;
        }
        StringBuilder stream = new StringBuilder();
        for (int i = 0; i < cut.length; i++) {
            Sample sample = read(dataset, cut[i]);
            int s = dataset.sequenceLength();
            for (int p = 0; p < s; p++) {
                stream.append((char) sample.tokens[p]);
                boolean last = sample.tokens[p] == EOS;
                boolean first = p == 0 || sample.tokens[p - 1] == EOS;
                assertThat(sample.labels[p] == Dataset.IGNORED).isEqualTo(last);
                assertThat(sample.positions[p]).isEqualTo(first ? 0 : sample.positions[p - 1] + 1);
                if (!last && p + 1 < s) {
                    assertThat(sample.labels[p]).isEqualTo(sample.tokens[p + 1]);
                }
            }
            if (i + 1 < cut.length && sample.labels[s - 1] != Dataset.IGNORED) {
                assertThat(read(dataset, cut[i + 1]).tokens[0]).isEqualTo(sample.labels[s - 1]);
            }
        }
        return stream.toString();
    }

    @Property(tries = 60)
    void packingIsAPermutationOfWholeDocumentsAndNeverCrossesBoundaries(
            @ForAll @Size(min = 1, max = 40) List<@IntRange(min = 1, max = 60) Integer> lengths,
            @ForAll @IntRange(min = 1, max = 50) int sequenceLength,
            @ForAll long seed)
            throws IOException {
        Path dir = Files.createTempDirectory("packed");
        try (TokenCache cache = cache(dir, lengths)) {
            if (cache.tokens() < sequenceLength) {
                return;
            }
            PackedDataset dataset = PackedDataset.shuffled(cache.all(), sequenceLength, seed);
            for (long epoch = 0; epoch < 3; epoch++) {
                String stream = stream(dataset, epoch);
                assertThat(cache.tokens() - stream.length()).isBetween(0L, sequenceLength - 1L);
                List<String> left = new ArrayList<>(documents(cache));
                int at = 0;
                for (int end = stream.indexOf(EOS); end >= 0; end = stream.indexOf(EOS, at)) {
                    assertThat(left.remove(stream.substring(at, end + 1))).isTrue();
                    at = end + 1;
                }
                String piece = stream.substring(at);
                assertThat(piece.isEmpty() || left.stream().anyMatch(d -> d.startsWith(piece)))
                        .isTrue();
            }
            PackedDataset sequential = PackedDataset.sequential(cache.all(), sequenceLength);
            String all = String.join("", documents(cache));
            StringBuilder tokens = new StringBuilder();
            int labels = 0;
            for (int i = 0; i < sequential.samplesPerEpoch(); i++) {
                Sample sample = read(sequential, i);
                Arrays.stream(sample.tokens).forEach(t -> tokens.append((char) t));
                labels += (int) Arrays.stream(sample.labels).filter(l -> l >= 0).count();
            }
            assertThat(tokens.toString()).startsWith(all);
            assertThat(tokens.substring(all.length())).matches("[" + (char) EOS + "]*");
            assertThat(labels).isEqualTo(all.length() - cache.documents());
        } finally {
            delete(dir);
        }
    }

    private static void delete(Path dir) throws IOException {
        try (var files = Files.walk(dir)) {
            for (Path file : files.sorted(Collections.reverseOrder()).toList()) {
                Files.delete(file);
            }
        }
    }

    @Test
    void ordersDependOnSeedAndEpochOnly(@TempDir Path dir) throws IOException {
        try (TokenCache cache = cache(dir, IntStream.range(1, 60).boxed().toList())) {
            PackedDataset a = PackedDataset.shuffled(cache.all(), 16, 1);
            PackedDataset b = PackedDataset.shuffled(cache.all(), 16, 1);
            long n = a.samplesPerEpoch();
            for (long sample : new long[] {5 * n + 3, 2, n, 3 * n - 1, 0, n - 1}) { // any order of reading
                assertThat(read(b, sample).tokens).isEqualTo(read(a, sample).tokens);
            }
            assertThat(stream(b, 2)).isEqualTo(stream(a, 2)).isNotEqualTo(stream(a, 3));
            assertThat(stream(PackedDataset.shuffled(cache.all(), 16, 2), 2)).isNotEqualTo(stream(a, 2));
        }
    }

    @Test
    void everyDocumentComesFirstAboutEquallyOften(@TempDir Path dir) throws IOException {
        try (TokenCache cache = cache(dir, List.of(1, 1, 1, 1))) {
            PackedDataset dataset = PackedDataset.shuffled(cache.all(), 2, 3);
            int[] first = new int[128];
            for (int epoch = 0; epoch < 4000; epoch++) {
                first[stream(dataset, epoch).charAt(0)]++;
            }
            for (char c : new char[] {'a', 'h', 'o', 'v'}) {
                assertThat(first[c]).isBetween(880, 1120); // 4 sigma
            }
        }
    }

    @Test
    void resumingAtACursorEqualsAStraightRun(@TempDir Path dir) throws IOException {
        try (TokenCache cache = cache(dir, IntStream.range(1, 50).boxed().toList())) {
            PackedDataset dataset = PackedDataset.shuffled(cache.all(), 32, 9);
            long n = dataset.samplesPerEpoch();
            assertThat(n % 4).isNotZero();
            List<String> straight = new ArrayList<>();
            BatchCursor cursor = BatchCursor.START;
            for (int step = 0; step < 40; step++) {
                cursor = step(cursor, dataset, straight);
            }
            List<String> resumed = new ArrayList<>();
            BatchCursor other = BatchCursor.START;
            JsonMapper mapper = new JsonMapper();
            for (int step = 0; step < 40; step++) {
                Dataset fresh = PackedDataset.shuffled(cache.all(), 32, 9);
                other = mapper.readValue(mapper.writeValueAsString(step(other, fresh, resumed)), BatchCursor.class);
            }
            assertThat(resumed).isEqualTo(straight);
            assertThat(other).isEqualTo(cursor);
            assertThat(cursor.epoch()).isEqualTo(40 / Math.ceilDiv(n, 4));
            assertThatThrownBy(() -> new BatchCursor(0, n).next(dataset, 4)).isInstanceOf(UserException.class);
        }
    }

    private static BatchCursor step(BatchCursor cursor, Dataset dataset, List<String> log) {
        BatchCursor.Batch batch = cursor.next(dataset, 4);
        for (int i = 0; i < batch.size(); i++) {
            log.add(batch.size() + Arrays.toString(read(dataset, batch.first() + i).tokens));
        }
        return batch.after();
    }

    @Test
    void readingAllocatesNothing(@TempDir Path dir) throws IOException {
        try (TokenCache cache = cache(dir, Collections.nCopies(200, 50))) {
            PackedDataset packed = PackedDataset.shuffled(cache.all(), 64, 1);
            for (Dataset dataset : List.of(packed, new SyntheticDataset(1000, 64, 1))) {
                Sample into = new Sample(new int[64], new int[64], new int[64]);
                MemorySegment tokens = MemorySegment.ofArray(into.tokens);
                MemorySegment labels = MemorySegment.ofArray(into.labels);
                MemorySegment positions = MemorySegment.ofArray(into.positions);
                var threads = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
                long before = 0;
                for (int i = 0; i < 60_000; i++) {
                    if (i == 50_000) { // compiled by then
                        before = threads.getCurrentThreadAllocatedBytes();
                    }
                    dataset.read(i % packed.samplesPerEpoch(), tokens, labels, positions);
                }
                assertThat((threads.getCurrentThreadAllocatedBytes() - before) / 10_000)
                        .isLessThan(16);
            }
        }
    }

    @Test
    void shortDataAreRefused(@TempDir Path dir) throws IOException {
        try (TokenCache cache = cache(dir, List.of(9))) {
            assertThat(PackedDataset.shuffled(cache.all(), 10, 0).samplesPerEpoch())
                    .isEqualTo(1);
            assertThatThrownBy(() -> PackedDataset.shuffled(cache.all(), 11, 0))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("only 10 tokens, less than one sequence of 11");
            assertThatThrownBy(() -> DocumentSet.split(cache, 3, 100)).isInstanceOf(UserException.class);
        }
    }

    @Test
    void splitHoldsOutWholeDocuments(@TempDir Path dir) throws IOException {
        try (TokenCache cache = cache(dir, Collections.nCopies(2000, 9))) {
            DocumentSet.Split split = DocumentSet.split(cache, 16, 1_000_000);
            assertThat(split.heldOut().tokens()).isBetween(200L, 209L);
            assertThat(split.training().tokens() + split.heldOut().tokens()).isEqualTo(cache.tokens());
            Set<Long> starts = new HashSet<>();
            for (DocumentSet set : List.of(split.training(), split.heldOut())) {
                for (int i = 0; i < set.size(); i++) {
                    assertThat(starts.add(set.start(i))).isTrue();
                    assertThat(set.end(i) - set.start(i)).isEqualTo(10);
                }
            }
            assertThat(starts).hasSize(2000);
            assertThat(DocumentSet.split(cache, 16, 60).heldOut().tokens()).isBetween(60L, 69L);
            assertThat(split.heldOut().start(0))
                    .isEqualTo(DocumentSet.split(cache, 16, 1_000_000).heldOut().start(0));
        }
    }

    @Test
    void splitOfASingleDocumentHoldsOutItsEnd(@TempDir Path dir) throws IOException {
        try (TokenCache cache = cache(dir, List.of(3, 5000))) {
            DocumentSet.Split split = DocumentSet.split(cache, 32, 1_000_000);
            assertThat(split.heldOut().tokens()).isEqualTo(50);
            assertThat(split.training().tokens()).isEqualTo(cache.tokens() - 50);
            String held = stream(PackedDataset.sequential(split.heldOut(), 10), 0);
            String whole = String.join("", documents(cache));
            assertThat(held).isEqualTo(whole.substring(whole.length() - 50));
            PackedDataset training = PackedDataset.sequential(split.training(), 1);
            assertThat(read(training, training.samplesPerEpoch() - 1).labels[0]).isEqualTo(Dataset.IGNORED);
        }
    }

    @Test
    void syntheticTokensAreUniformAndRepeatable() {
        SyntheticDataset dataset = new SyntheticDataset(10, 100, 5);
        int[] counts = new int[10];
        for (int i = 0; i < 100; i++) {
            Sample sample = read(dataset, i);
            Arrays.stream(sample.tokens).forEach(t -> counts[t]++);
            assertThat(Arrays.copyOf(sample.labels, 99)).isEqualTo(Arrays.copyOfRange(sample.tokens, 1, 100));
            assertThat(sample.positions).isEqualTo(IntStream.range(0, 100).toArray());
        }
        assertThat(IntStream.of(counts)).allMatch(n -> n > 880 && n < 1120); // 4 sigma
        assertThat(read(new SyntheticDataset(10, 100, 5), 7).tokens).isEqualTo(read(dataset, 7).tokens);
        assertThat(read(new SyntheticDataset(10, 100, 6), 7).tokens).isNotEqualTo(read(dataset, 7).tokens);
        assertThat(BatchCursor.START.next(dataset, 8)).isEqualTo(new BatchCursor.Batch(0, 8, new BatchCursor(0, 8)));
    }
}
