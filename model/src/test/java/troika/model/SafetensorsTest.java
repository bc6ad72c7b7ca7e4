package troika.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.zip.CRC32C;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import troika.tensor.DType;
import troika.tensor.Shape;
import troika.tensor.UserException;

class SafetensorsTest {
    private static final List<SafetensorsWriter.Entry> ENTRIES = List.of(
            new SafetensorsWriter.Entry("model.embed_tokens.weight", DType.F32, Shape.of(3, 4)),
            new SafetensorsWriter.Entry("empty", DType.F16, Shape.of(0, 7)),
            new SafetensorsWriter.Entry("ä \"quoted\"\n", DType.BF16, Shape.of(5)),
            new SafetensorsWriter.Entry("scalar", DType.I32, Shape.of()));

    private static byte[] bytes(SafetensorsWriter.Entry entry) {
        byte[] bytes = new byte[(int) entry.bytes()];
        new Random(entry.name().hashCode()).nextBytes(bytes);
        return bytes;
    }

    private static void write(Path file) throws IOException {
        try (var writer = SafetensorsWriter.create(file, ENTRIES)) {
            for (var entry : ENTRIES) {
                if (entry.bytes() > 0) {
                    writer.write(entry.name(), MemorySegment.ofArray(bytes(entry)));
                }
            }
            writer.finish();
            var checksum = new CRC32C();
            checksum.update(Files.readAllBytes(file));
            assertThat(writer.checksum()).isEqualTo((int) checksum.getValue());
            assertThat(writer.bytes()).isEqualTo(Files.size(file));
            assertThat(writer.tensorChecksums()).hasSize(ENTRIES.size());
        }
    }

    /// A file of this header and this many bytes of data.
    private static Path file(Path directory, String header, int data) throws IOException {
        byte[] utf8 = header.getBytes(StandardCharsets.UTF_8);
        var buffer = ByteBuffer.allocate(8 + utf8.length + data).order(ByteOrder.LITTLE_ENDIAN);
        return Files.write(
                directory.resolve("x.safetensors"),
                buffer.putLong(utf8.length).put(utf8).array());
    }

    @Test
    void whatIsWrittenIsRead(@TempDir Path directory) throws IOException {
        Path path = directory.resolve("model.safetensors");
        write(path);
        try (var file = SafetensorsFile.open(path)) {
            assertThat(file.names())
                    .containsExactlyElementsOf(
                            ENTRIES.stream().map(SafetensorsWriter.Entry::name).toList());
            for (var entry : ENTRIES) {
                SafetensorsTensor tensor = file.tensor(entry.name());
                assertThat(tensor.dtype()).isEqualTo(entry.dtype());
                assertThat(tensor.shape()).isEqualTo(entry.shape());
                assertThat(tensor.data().toArray(ValueLayout.JAVA_BYTE)).isEqualTo(bytes(entry));
                assertThat(tensor.data().isReadOnly()).isTrue();
            }
        }
        byte[] all = Files.readAllBytes(path);
        long header = ByteBuffer.wrap(all).order(ByteOrder.LITTLE_ENDIAN).getLong();
        assertThat(header % 8).isZero();
        assertThat(new String(all, 8, (int) header, StandardCharsets.UTF_8))
                .startsWith("{\"__metadata__\":{\"format\":\"pt\"},\"model.embed_tokens.weight\":{\"dtype\":\"F32\",");
    }

    @Test
    void chunksOffAndOnTheHeap(@TempDir Path directory) throws IOException {
        int floats = (9 << 20) / 4;
        float[] values = new float[floats];
        for (int i = 0; i < floats; i++) {
            values[i] = i;
        }
        Path path = directory.resolve("x.safetensors");
        var entries = List.of(
                new SafetensorsWriter.Entry("heap", DType.F32, Shape.of(floats)),
                new SafetensorsWriter.Entry("native", DType.F32, Shape.of(floats)));
        try (Arena arena = Arena.ofConfined();
                var writer = SafetensorsWriter.create(path, entries)) {
            MemorySegment heap = MemorySegment.ofArray(values);
            writer.write("heap", heap.asSlice(0, 12));
            writer.write("heap", heap.asSlice(12));
            writer.write("native", arena.allocateFrom(ValueLayout.JAVA_FLOAT, values));
            writer.finish();
        }
        try (var file = SafetensorsFile.open(path)) {
            assertThat(file.tensor("heap").data().toArray(ValueLayout.JAVA_FLOAT_UNALIGNED))
                    .isEqualTo(values);
            assertThat(file.tensor("native").data().mismatch(file.bytes("heap")))
                    .isEqualTo(-1);
        }
    }

    @Test
    void writerRefusesMisuse(@TempDir Path directory) throws IOException {
        try (var writer = SafetensorsWriter.create(directory.resolve("x"), ENTRIES)) {
            assertThatThrownBy(() -> writer.write("scalar", MemorySegment.ofArray(new byte[4])))
                    .isInstanceOf(IllegalStateException.class);
            assertThatThrownBy(() -> writer.write("model.embed_tokens.weight", MemorySegment.ofArray(new byte[49])))
                    .isInstanceOf(IllegalArgumentException.class);
            assertThatThrownBy(writer::finish).isInstanceOf(IllegalStateException.class);
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "[] | 0 | object",
                "{} | 1 | 1 are there",
                "{\"a\":{}} | 0 | a",
                "{\"a\":3} | 0 | a",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]} | 4 | JSON",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}x | 4 | JSON",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}{} | 4 | behind",
                "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}} | 4 | F33",
                "{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}} | 4 | dtype",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}} | 4 | shape",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}} | 4 | shape",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}} | 4 | shape",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}} | 4 | shape",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}} | 0 | elements",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[576460752303423489],\"data_offsets\":[0,4]}} | 4 | elements",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551617],\"data_offsets\":[0,4]}} | 4 | shape",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}} | 4 | data_offsets",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}} | 4 | before",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}} | 8 | 8 bytes",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}} | 4 | cut short",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}} | 8 | holes",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}} | 8 | twice",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}} | 4 | overlap",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}} | 8 | overlap",
                "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}} | 4 | dtype",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}} | 4 | more",
                "{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}} | 1 | F4",
                "{\"__metadata__\":{\"a\":1}} | 0 | __metadata__",
                "{\"__metadata__\":[]} | 0 | __metadata__",
                "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}} | 0 | __metadata__",
                "{\"__metadata__\":{},\"__metadata__\":{}} | 0 | __metadata__",
            })
    void hostileHeaders(String header, int data, String named, @TempDir Path directory) throws IOException {
        Path path = file(directory, header, data);
        assertThatThrownBy(() -> SafetensorsFile.open(path).close())
                .isInstanceOf(UserException.class)
                .hasMessageContaining(path.toString())
                .hasMessageContaining(named)
                .hasMessageEndingWith(".");
    }

    @ParameterizedTest
    @ValueSource(longs = {0, 1, 3, 104857601, Long.MAX_VALUE, Long.MIN_VALUE, -1})
    void headerLengthIsBounded(long length, @TempDir Path directory) throws IOException {
        Path path = directory.resolve("x.safetensors");
        Files.write(
                path,
                ByteBuffer.allocate(10)
                        .order(ByteOrder.LITTLE_ENDIAN)
                        .putLong(length)
                        .put("{}".getBytes(StandardCharsets.UTF_8))
                        .array());
        assertThatThrownBy(() -> SafetensorsFile.open(path).close())
                .isInstanceOf(UserException.class)
                .hasMessageContaining(path.toString());
    }

    @Test
    void shortAndMissingFiles(@TempDir Path directory) throws IOException {
        Path path = directory.resolve("x.safetensors");
        assertThatThrownBy(() -> SafetensorsFile.open(path))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("not exist");
        for (int size = 0; size < 8; size++) {
            Files.write(path, new byte[size]);
            assertThatThrownBy(() -> SafetensorsFile.open(path))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("too few");
        }
        assertThatThrownBy(() -> SafetensorsFile.open(directory)).isInstanceOf(UserException.class);
    }

    @Test
    void foreignDTypesAreRefusedOnlyWhenAskedFor(@TempDir Path directory) throws IOException {
        Path path = file(
                directory,
                "{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                        + "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}   ",
                12);
        try (var file = SafetensorsFile.open(path)) {
            assertThat(file.tensor("b").shape()).isEqualTo(Shape.of(1));
            assertThat(file.bytes("a").byteSize()).isEqualTo(8);
            assertThatThrownBy(() -> file.tensor("a"))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("I64");
            assertThatThrownBy(() -> file.tensor("c"))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("c");
        }
    }

    private static Path fuzzDirectory = Path.of("");
    private static byte[] original = {};

    @BeforeContainer
    static void prepareFuzz() throws IOException {
        fuzzDirectory = Files.createTempDirectory("fuzz");
        write(fuzzDirectory.resolve("original"));
        original = Files.readAllBytes(fuzzDirectory.resolve("original"));
    }

    @AfterContainer
    static void endFuzz() throws IOException {
        try (var files = Files.list(fuzzDirectory)) {
            for (Path file : files.toList()) {
                Files.delete(file);
            }
        }
        Files.delete(fuzzDirectory);
    }

    /// Damage is refused in a sentence, or else every tensor still lies within the file, the tensors tile
    /// it, and those whose names survived have their bytes.
    @Property(tries = 3000)
    void fuzz(@ForAll long seed, @ForAll @IntRange(min = 1, max = 3) int mutations) {
        var random = new Random(seed);
        int header =
                (int) ByteBuffer.wrap(original).order(ByteOrder.LITTLE_ENDIAN).getLong();
        byte[] mutated = Mutation.of(Arrays.copyOfRange(original, 8, 8 + header), mutations, random);
        byte[] data = Arrays.copyOfRange(original, 8 + header, original.length);
        long length = random.nextInt(10) == 0 ? header : mutated.length;
        byte[] whole = ByteBuffer.allocate(8 + mutated.length + data.length)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(length)
                .put(mutated)
                .put(data)
                .array();
        Path path = fuzzDirectory.resolve("mutated");
        try {
            Files.write(path, whole);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        try (var file = SafetensorsFile.open(path)) {
            long total = 0;
            for (String name : file.names()) {
                total += file.bytes(name).toArray(ValueLayout.JAVA_BYTE).length;
            }
            assertThat(total).isEqualTo(whole.length - 8 - length);
        } catch (UserException e) {
            assertThat(e.getMessage()).contains(path.toString()).endsWith(".");
        }
    }
}
