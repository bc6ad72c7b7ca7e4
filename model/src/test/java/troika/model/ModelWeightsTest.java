package troika.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import troika.tensor.DType;
import troika.tensor.Shape;
import troika.tensor.UserException;

class ModelWeightsTest {
    private static List<SafetensorsShards.Written> write(Path directory, int tensors, long shardBytes)
            throws IOException {
        var entries = new ArrayList<SafetensorsWriter.Entry>();
        for (int i = 0; i < tensors; i++) {
            entries.add(new SafetensorsWriter.Entry("t" + i, DType.F32, Shape.of(i, 2)));
        }
        try (var shards = SafetensorsShards.create(directory, "model", entries, shardBytes)) {
            for (int i = 0; i < tensors; i++) {
                for (int row = 0; row < i; row++) {
                    shards.write("t" + i, MemorySegment.ofArray(new float[] {i, row}));
                }
            }
            return shards.finish();
        }
    }

    @ParameterizedTest
    @ValueSource(longs = {1, 8, 40, 100, 1000})
    void shardsAreReadBack(long shardBytes, @TempDir Path directory) throws IOException {
        var written = write(directory, 7, shardBytes);
        boolean single = shardBytes == 1000;
        assertThat(Files.exists(directory.resolve("model.safetensors"))).isEqualTo(single);
        assertThat(Files.exists(directory.resolve("model.safetensors.index.json")))
                .isEqualTo(!single);
        try (var list = Files.list(directory)) {
            assertThat(list.map(p -> p.getFileName().toString()))
                    .containsExactlyInAnyOrderElementsOf(written.stream()
                            .map(SafetensorsShards.Written::file)
                            .toList());
        }
        try (var weights = ModelWeights.open(directory)) {
            assertThat(weights.names()).hasSize(7);
            for (int i = 0; i < 7; i++) {
                var tensor = weights.tensor("t" + i);
                assertThat(tensor.shape()).isEqualTo(Shape.of(i, 2));
                for (int row = 0; row < i; row++) {
                    assertThat(tensor.data().getAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, 2L * row))
                            .isEqualTo(i);
                    assertThat(tensor.data().getAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, 2L * row + 1))
                            .isEqualTo(row);
                }
            }
            assertThat(weights.has("t7")).isFalse();
            assertThatThrownBy(() -> weights.tensor("t7"))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("t7");
        }
    }

    @Test
    void namesAreHuggingFaces(@TempDir Path directory) throws IOException {
        assertThat(write(directory, 3, 8).stream().map(SafetensorsShards.Written::file))
                .containsExactly(
                        "model-00001-of-00002.safetensors",
                        "model-00002-of-00002.safetensors",
                        "model.safetensors.index.json");
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "../x/model.safetensors",
                "/etc/passwd",
                "..",
                "sub/model.safetensors",
                "model.bin",
                "",
                ".safetensors",
                "a\\\\b.safetensors",
                "missing.safetensors",
                "a\\u0000.safetensors"
            })
    void indexMustNotLeadElsewhere(String shard, @TempDir Path parent) throws IOException {
        Path directory = Files.createDirectories(parent.resolve("model"));
        write(Files.createDirectories(parent.resolve("x")), 2, 1000);
        write(Files.createDirectories(directory.resolve("sub")), 2, 1000);
        Path index = directory.resolve("model.safetensors.index.json");
        Files.writeString(index, "{\"weight_map\": {\"t1\": \"" + shard + "\"}}");
        assertThatThrownBy(() -> ModelWeights.open(directory))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("t1")
                .hasMessageContaining(index.toString());
    }

    @Test
    void indexMustAgreeWithShards(@TempDir Path directory) throws IOException {
        write(directory, 4, 8);
        Path index = directory.resolve("model.safetensors.index.json");
        String json = Files.readString(index);
        for (String bad : new String[] {
            "{}",
            "[]",
            "",
            "{\"weight_map\": 3}",
            "{\"weight_map\": {\"t1\": 3}}",
            json.replace("\"t2\"", "\"u\""),
            json + "}"
        }) {
            Files.writeString(index, bad);
            assertThatThrownBy(() -> ModelWeights.open(directory))
                    .as(bad)
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining(index.toString());
        }
        Files.writeString(index, json);
        Files.delete(directory.resolve("model-00002-of-00003.safetensors"));
        assertThatThrownBy(() -> ModelWeights.open(directory))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("model-00002-of-00003.safetensors");
    }

    @Test
    void nothingToOpen(@TempDir Path directory) throws IOException {
        assertThatThrownBy(() -> ModelWeights.open(directory))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("no model.safetensors");
        Files.createFile(directory.resolve("pytorch_model.bin"));
        assertThatThrownBy(() -> ModelWeights.open(directory))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("pytorch_model.bin is not read");
    }
}
