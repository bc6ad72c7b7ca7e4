package troika.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.hardwood.metadata.CompressionCodec;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import troika.tensor.UserException;

/// Parquet files, compressed or not, good and bad. Those that leave threads of the library spinning come last.
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class ParquetTest {
    private static final int LAST = Integer.MAX_VALUE;
    private static final String DAMAGED = "cannot be read as Parquet";
    private static final List<String> TEXTS =
            List.of("first document ".repeat(20), "", "zweites Dokument: äöü €", "fünf 𝄞\nlines".repeat(9));

    @TempDir
    Path dir = Path.of("");

    private Path write(ParquetFile file) throws IOException {
        return Files.write(dir.resolve("a.parquet"), file.bytes());
    }

    private static List<Document> read(Path file) throws IOException {
        List<Document> documents = new ArrayList<>();
        ParquetText.read(file, "a", Duration.ofSeconds(5), documents::add);
        return documents;
    }

    private void refuses(String part, ParquetFile bad) throws IOException {
        Path file = write(bad);
        assertThatThrownBy(() -> read(file))
                .isInstanceOf(UserException.class)
                .hasMessageContaining(file.toString())
                .hasMessageContaining(part)
                .hasMessageMatching("[^\\n]*\\.");
    }

    @Test
    void parquet() throws Exception {
        // The fixtures were written with hyparquet-writer 0.x: plain.parquet in row groups of two.
        assertThat(CorpusTest.documents(CorpusTest.resource("plain.parquet")))
                .extracting(Document::text)
                .containsExactly("first document", "", "zweites Dokument: äöü €", "third\nwith lines", "fünf 𝄞");
        assertThat(CorpusTest.names(CorpusTest.resource("plain.parquet")))
                .first()
                .isEqualTo("plain.parquet:1");
        CorpusTest.refused("no column \"text\"", CorpusTest.resource("no-text.parquet"));
        CorpusTest.refused("row 2, has no \"text\"", CorpusTest.resource("null-text.parquet"));
        CorpusTest.refused("holds INT32, not strings", CorpusTest.resource("number-text.parquet"));
        CorpusTest.refused(
                "cannot be read as Parquet",
                Files.writeString(dir.resolve("not.parquet"), "PAR1 but not really a parquet file PAR1"));
    }

    /// snappy.parquet is hyparquet-writer's, whose Snappy is another than ours.
    @Test
    void parquetOfAnotherWriterInSnappy() throws Exception {
        assertThat(CorpusTest.documents(CorpusTest.resource("snappy.parquet"))).hasSize(50);
    }

    @ParameterizedTest
    @EnumSource(names = {"UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "LZ4", "LZ4_RAW"})
    void parquetIn(CompressionCodec codec) throws Exception {
        ParquetFile good = ParquetFile.of(codec, TEXTS);
        assertThat(read(write(good))).extracting(Document::text).containsExactlyElementsOf(TEXTS);
    }

    /// In any codec: pages of another size than their headers say, cut, flipped or of garbage.
    @ParameterizedTest
    @Timeout(60)
    @EnumSource(names = {"SNAPPY", "GZIP", "ZSTD", "LZ4", "LZ4_RAW"})
    void damagedCompressionIsRefused(CompressionCodec codec) throws Exception {
        ParquetFile good = ParquetFile.of(codec, TEXTS);
        refuses(DAMAGED, good.claims(good.claimed() - 1));
        refuses(DAMAGED, good.claims(good.claimed() + 1));
        refuses(DAMAGED, good.claims(16));
        refuses(DAMAGED, good.claims(-1));
        refuses(DAMAGED, good.claims(1 << 28));
        refuses(DAMAGED, good.page(Arrays.copyOf(good.page(), good.page().length / 2)));
        refuses(DAMAGED, good.page(new byte[] {-1, -1, -1, -1, 7, 0, 0, 0, 0, 0, 0, 0}));
        refuses(DAMAGED, good.page(new byte[0]));
        // Far more than the header claims, which must not be written behind the library's buffer.
        refuses(DAMAGED, good.page(ParquetFile.compress(codec, new byte[1 << 20])));
        Random random = new Random(4);
        for (int i = 0; i < 30; i++) {
            byte[] flipped = good.page().clone();
            flipped[random.nextInt(Math.min(40, flipped.length))] ^= (byte) (1 << random.nextInt(8));
            try {
                read(write(good.page(flipped)));
            } catch (UserException e) { // a letter may have changed, and nothing else
                assertThat(e).hasMessageContaining(DAMAGED);
            }
        }
    }

    /// The length at the head of Snappy's data is 2^32 - 1, a negative int, and what follows is a whole MiB.
    @Test
    void snappyOfALengthThatIsNoIntIsRefused() throws Exception {
        byte[] mib = ParquetFile.compress(CompressionCodec.SNAPPY, new byte[1 << 20]);
        byte[] page = new byte[mib.length + 2];
        Arrays.fill(page, 0, 4, (byte) -1);
        page[4] = 15;
        System.arraycopy(mib, 3, page, 5, mib.length - 3); // the length of a MiB takes three bytes
        refuses(
                "Snappy: -1 bytes for a page of",
                ParquetFile.of(CompressionCodec.SNAPPY, TEXTS).page(page));
    }

    /// 70 MB in some KB, told honestly or not.
    @ParameterizedTest
    @Timeout(60)
    @EnumSource(names = {"SNAPPY", "GZIP", "ZSTD", "LZ4", "LZ4_RAW"})
    void parquetBombsAreRefused(CompressionCodec codec) throws Exception {
        ParquetFile small = ParquetFile.of(codec, List.of("a"));
        refuses("inflates to absurdly much", small.columnClaims(1L << 40));
        if (codec != CompressionCodec.SNAPPY) { // at most 21 : 1
            ParquetFile bomb = ParquetFile.of(codec, List.of("a".repeat(70 << 20)));
            refuses("inflates to absurdly much", bomb.columnClaims(1000));
        }
    }

    @Test
    void parquetInBrotliIsRefused() throws Exception {
        ParquetFile file = new ParquetFile(CompressionCodec.BROTLI, 1, new byte[8], 5, 5);
        refuses("is compressed by BROTLI, which is not supported", file);
    }

    @Test
    @Order(LAST)
    void damagedParquetNeverFailsOtherwise() throws Exception {
        byte[] good = Files.readAllBytes(CorpusTest.resource("plain.parquet"));
        Random random = new Random(2);
        int refused = 0;
        for (int i = 0; i < 25; i++) {
            byte[] damaged = good.clone();
            damaged[random.nextInt(damaged.length)] = (byte) random.nextInt(256);
            Path file = Files.write(dir.resolve("damaged.parquet"), damaged);
            try {
                ParquetText.read(file, "damaged", Duration.ofMillis(200), _ -> {});
            } catch (UserException e) {
                refused++;
            }
        }
        assertThat(refused).isGreaterThan(3);
    }

    @Test
    @Order(LAST)
    @Timeout(20)
    void parquetThatWouldStallTheLibraryIsRefused() throws Exception {
        byte[] stalling = Files.readAllBytes(CorpusTest.resource("plain.parquet"));
        stalling[232] = 75;
        Path file = Files.write(dir.resolve("stalling.parquet"), stalling);
        assertThatThrownBy(() -> ParquetText.read(file, "stalling", Duration.ofMillis(300), _ -> {}))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("cannot be read as Parquet");
        assertThat(Thread.interrupted()).isFalse();
    }
}
