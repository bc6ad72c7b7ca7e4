package troika.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.model.ByteTokenizer;
import troika.model.Tokenizer;
import troika.tensor.UserException;

class TokenCacheTest {
    @TempDir
    Path dir;

    /// A byte tokenizer that counts its calls and can be given other traits.
    private static final class Probe implements Tokenizer {
        private final ByteTokenizer bytes = new ByteTokenizer();
        private final AtomicInteger calls = new AtomicInteger();
        private final int shift;
        private final int vocabulary;
        private final OptionalInt eos;

        Probe(int shift, int vocabulary, OptionalInt eos) {
            this.shift = shift;
            this.vocabulary = vocabulary;
            this.eos = eos;
        }

        Probe() {
            this(0, 258, OptionalInt.of(257));
        }

        @Override
        public int[] encode(String text) {
            calls.incrementAndGet();
            return IntStream.of(bytes.encode(text)).map(id -> id + shift).toArray();
        }

        @Override
        public String decode(int... ids) {
            return bytes.decode(ids);
        }

        @Override
        public int vocabularySize() {
            return vocabulary;
        }

        @Override
        public OptionalInt bosId() {
            return OptionalInt.empty();
        }

        @Override
        public OptionalInt eosId() {
            return eos;
        }

        @Override
        public String fingerprint() {
            return "probe " + shift + " " + vocabulary;
        }
    }

    private Path corpus(String... texts) throws IOException {
        Path folder = Files.createDirectories(dir.resolve("data"));
        for (int i = 0; i < texts.length; i++) {
            Files.writeString(folder.resolve(i + ".txt"), texts[i]);
        }
        return folder;
    }

    private TokenCache open(Path data, Tokenizer tokenizer) {
        return TokenCache.open(Corpus.open(List.of(data.toString())), tokenizer, dir.resolve("cache"));
    }

    private static List<Integer> tokens(TokenCache cache) {
        List<Integer> tokens = new ArrayList<>();
        for (long i = 0; i < cache.tokens(); i++) {
            tokens.add(cache.token(i));
        }
        return tokens;
    }

    private List<Path> cacheFolders() throws IOException {
        try (Stream<Path> list = Files.list(dir.resolve("cache"))) {
            return list.toList();
        }
    }

    @Test
    void documentsEndWithEosAndEmptyOnesAreLeftOut() throws IOException {
        try (TokenCache cache = open(corpus("ab", "", "c"), new Probe())) {
            assertThat(tokens(cache)).containsExactly(97, 98, 257, 99, 257);
            assertThat(cache.documents()).isEqualTo(2);
            assertThat(List.of(cache.start(0), cache.start(1), cache.start(2))).containsExactly(0L, 3L, 5L);
            assertThat(cache.eos()).isEqualTo(257);
        }
    }

    @Test
    void wideVocabulariesTakeInt32() throws IOException {
        try (TokenCache wide = open(corpus("ab"), new Probe(100_000, 129_280, OptionalInt.of(1)))) {
            assertThat(tokens(wide)).containsExactly(100_097, 100_098, 1);
        }
        try (TokenCache edge = open(corpus("aa"), new Probe(65_438, 65_536, OptionalInt.of(1)))) {
            assertThat(tokens(edge)).containsExactly(65_535, 65_535, 1);
        }
    }

    @Test
    void foundAgainUntilSourcesOrTokenizerChange() throws IOException {
        Path data = corpus("some text", "more text");
        Probe first = new Probe();
        String key;
        try (TokenCache cache = open(data, first)) {
            key = cache.key();
        }
        assertThat(first.calls.get()).isEqualTo(2);
        Probe second = new Probe();
        try (TokenCache cache = open(data, second)) {
            assertThat(cache.key()).isEqualTo(key);
            assertThat(tokens(cache)).hasSize(20);
        }
        assertThat(second.calls.get()).isZero();
        try (TokenCache cache = open(data, new Probe(1, 259, OptionalInt.of(258)))) {
            assertThat(cache.key()).isNotEqualTo(key);
        }
        Files.writeString(data.resolve("1.txt"), "more texx");
        try (TokenCache cache = open(data, new Probe())) {
            assertThat(cache.key()).isNotEqualTo(key);
            assertThat(tokens(cache).get(18)).isEqualTo((int) 'x');
        }
        assertThat(cacheFolders()).hasSize(3);
    }

    @Test
    void movedCorpusKeepsItsCache() throws IOException {
        Path data = corpus("some text");
        open(data, new Probe()).close();
        Probe probe = new Probe();
        open(Files.move(data, dir.resolve("elsewhere")), probe).close();
        assertThat(probe.calls.get()).isZero();
    }

    @Test
    void damageIsFoundAndRepaired() throws IOException {
        Path data = corpus("some text", "more text");
        List<Integer> expected;
        try (TokenCache cache = open(data, new Probe())) {
            expected = tokens(cache);
        }
        Path folder = cacheFolders().getFirst();
        for (String name : List.of("tokens.bin", "documents.bin", "names.bin", "meta.json")) {
            Path file = folder.resolve(name);
            byte[] good = Files.readAllBytes(file);
            byte[] flipped = good.clone();
            flipped[flipped.length / 2] ^= 1;
            byte[] cut = java.util.Arrays.copyOf(good, good.length - 1);
            for (byte[] damaged : List.of(flipped, cut, new byte[0])) {
                Files.write(file, damaged);
                assertOpensAs(expected, data, name);
                assertThat(Files.readAllBytes(file)).as(name).isEqualTo(good);
            }
            Files.delete(file);
            assertOpensAs(expected, data, name);
        }
        assertThat(cacheFolders()).containsExactly(folder);
    }

    private void assertOpensAs(List<Integer> expected, Path data, String damaged) {
        Probe probe = new Probe();
        try (TokenCache cache = open(data, probe)) {
            assertThat(tokens(cache)).isEqualTo(expected);
        }
        assertThat(probe.calls.get()).as("rebuilt after damage to " + damaged).isEqualTo(2);
    }

    @Test
    void concurrentRunsAllGetTheWholeCache() throws Exception {
        Path data = corpus(IntStream.range(0, 50).mapToObj(i -> "text " + i).toArray(String[]::new));
        try (ExecutorService pool = Executors.newFixedThreadPool(6)) {
            Callable<List<Integer>> run = () -> {
                try (TokenCache cache = open(data, new Probe())) {
                    return tokens(cache);
                }
            };
            List<Future<List<Integer>>> all = pool.invokeAll(List.of(run, run, run, run, run, run));
            for (Future<List<Integer>> result : all) {
                assertThat(result.get()).isEqualTo(all.getFirst().get()).hasSizeGreaterThan(300);
            }
        }
        assertThat(cacheFolders()).hasSize(1);
    }

    @Test
    void orderIsThatOfTheDocumentsHoweverLongEachTakes() throws IOException {
        Path file = dir.resolve("many.jsonl");
        StringBuilder expected = new StringBuilder();
        try (BufferedWriter writer = Files.newBufferedWriter(file)) {
            for (int i = 0; i < 2000; i++) {
                String text = i + ":" + "x".repeat(i * 37 % 1000);
                expected.append(text).append('|');
                writer.write("{\"text\":\"" + text + "\"}\n");
            }
        }
        try (TokenCache cache = open(file, new Probe())) {
            StringBuilder actual = new StringBuilder();
            for (int token : tokens(cache)) {
                actual.append(token == 257 ? '|' : (char) token);
            }
            assertThat(actual.toString()).isEqualTo(expected.toString());
            assertThat(cache.documents()).isEqualTo(2000);
        }
    }

    @Test
    void mistakesAreSaid() throws IOException {
        Path data = corpus("text");
        assertThatThrownBy(() -> open(data, new Probe(0, 258, OptionalInt.empty())))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("lacks an end-of-sequence token");
        assertThatThrownBy(() -> open(data, new Probe(300, 258, OptionalInt.of(257))))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("outside its vocabulary of 258");
        assertThat(cacheFolders()).isEmpty();
        try (TokenCache cache = open(data, new Probe())) {
            cache.checkVocabulary(258);
            assertThatThrownBy(() -> cache.checkVocabulary(257))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("258")
                    .hasMessageContaining("257");
        }
        Path blocked = Files.writeString(dir.resolve("blocked"), "a file");
        assertThatThrownBy(() -> TokenCache.open(Corpus.open(List.of(data.toString())), new Probe(), blocked))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("cannot be written");
        Path broken = Files.writeString(dir.resolve("broken.jsonl"), "{\"text\":\"a\"}\n{");
        assertThatThrownBy(() -> open(broken, new Probe()))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("broken.jsonl, line 2");
        assertThat(cacheFolders()).hasSize(1);
    }

    /// In a JVM of its own: more text, and four times as many token bytes, than the heap holds.
    @Test
    void corpusMayExceedTheHeap() throws Exception {
        Path data = Files.createDirectories(dir.resolve("large"));
        String line = "words of a line, and more of them to make it long enough\n";
        Files.writeString(data.resolve("one.txt"), line.repeat(1_500_000)); // 85 MB in one document
        Process child = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "-Xmx64m",
                        "--enable-native-access=ALL-UNNAMED",
                        "-cp",
                        System.getProperty("java.class.path"),
                        Child.class.getName(),
                        data.toString(),
                        dir.resolve("cache").toString())
                .redirectErrorStream(true)
                .start();
        String output = new String(child.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(child.waitFor(60, TimeUnit.SECONDS)).isTrue();
        assertThat(output.lines().toList().getLast()).isEqualTo((1_500_000L * line.length() + 1) + " tokens");
    }

    static final class Child {
        private Child() {}

        public static void main(String[] args) {
            try (TokenCache cache =
                    TokenCache.open(Corpus.open(List.of(args[0])), new ByteTokenizer(), Path.of(args[1]))) {
                System.out.println(cache.tokens() + " tokens");
            }
        }
    }
}
