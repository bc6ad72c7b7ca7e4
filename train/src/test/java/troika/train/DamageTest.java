package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.List;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.model.ModelConfig;
import troika.model.ModelWeights;
import troika.tensor.UserException;
import troika.train.checkpoint.Checkpoints;
import troika.train.config.TrainingOptionsBuilder;

/// Checkpoints that are damaged or of something else, and numbers that are not finite: refused in a
/// sentence.
class DamageTest {
    @TempDir
    Path folder = Path.of("");

    private Path run = Path.of("");
    private Path checkpoint = Path.of("");

    @BeforeEach
    void aRunOfTwoSteps() throws Exception {
        run = folder.resolve("run");
        checkpoint = Checkpoints.directory(run, 2);
        Runs.train(Runs.job(folder).output(run).maxSteps(2).saveSteps(1));
    }

    private TrainingOptionsBuilder resumed() throws Exception {
        return Runs.job(folder).output(run).resume("latest");
    }

    private static AbstractThrowableAssert<?, ? extends Throwable> assertRefused(TrainingOptionsBuilder options) {
        return assertThatThrownBy(() -> Runs.train(options))
                .isInstanceOf(UserException.class)
                .hasMessageMatching("[^\\n]*\\.");
    }

    @ParameterizedTest
    @CsvSource({
        "model.safetensors,-5,model.norm.weight",
        "model.safetensors,20,header",
        "optimizer.safetensors,-5,moment2",
        "optimizer.safetensors,3,header",
        "trainer_state.json,5,damaged",
        "config.json,30,damaged",
        "tokenizer.json,100,damaged",
        "manifest.json,-20,json"
    })
    void aFlippedByte(String file, int at, String word) throws Exception {
        Path damaged = checkpoint.resolve(file);
        byte[] bytes = Files.readAllBytes(damaged);
        bytes[at < 0 ? bytes.length + at : at] ^= 4;
        Files.write(damaged, bytes);
        assertRefused(resumed()).hasMessageContaining(word).hasMessageContaining(checkpoint.toString());
        assertThat(Runs.losses(run)).hasSize(2);
        // The checkpoint before it is whole.
        Runs.train(resumed().resume(Checkpoints.directory(run, 1).toString()));
    }

    @ParameterizedTest
    @CsvSource({"model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json", "manifest.json"})
    void aTruncatedFile(String file) throws Exception {
        Path damaged = checkpoint.resolve(file);
        byte[] bytes = Files.readAllBytes(damaged);
        Files.write(damaged, Arrays.copyOf(bytes, bytes.length / 2));
        assertRefused(resumed()).hasMessageContaining(damaged.toString());
        Files.delete(damaged);
        assertRefused(resumed()).hasMessageContaining(damaged.toString());
    }

    @Test
    void anotherModel() throws Exception {
        ModelConfig config = Runs.config(true);
        assertRefused(resumed()
                        .model(Runs.model(folder.resolve("other"), config).toString()))
                .hasMessageContaining("tie_word_embeddings is false and not true")
                .hasMessageContaining("config.json");
    }

    @Test
    void otherDataSeedOrLength() throws Exception {
        assertRefused(resumed().seed(9)).hasMessageContaining("--seed 1");
        assertRefused(resumed().sequenceLength(16)).hasMessageContaining("--sequence-length 32");
        Path other = Files.createDirectories(folder.resolve("other"));
        assertRefused(resumed().data(List.of(Runs.text(other, 9).toString()))).hasMessageContaining("other data");
        assertRefused(resumed().maxSteps(1))
                .hasMessageContaining("after step 2")
                .hasMessageContaining("--max-steps");
    }

    @Test
    void anotherRunInTheOutput() throws Exception {
        assertRefused(Runs.job(folder).output(run)).hasMessageContaining("holds another run");
        Path other = folder.resolve("second");
        Runs.train(Runs.job(folder).output(other).maxSteps(1));
        assertRefused(Runs.job(folder).output(other).resume(checkpoint.toString()))
                .hasMessageContaining("holds another run");
    }

    @Test
    void aFolderThatIsNoCheckpoint() throws Exception {
        assertRefused(resumed().resume(run.resolve("model").toString()))
                .hasMessageContaining("trainer_state.json")
                .hasMessageContaining("is not a checkpoint");
        assertRefused(resumed().resume(folder.toString())).hasMessageContaining("is not a checkpoint");
        assertRefused(resumed().resume(folder.resolve("none").toString())).hasMessageContaining("is not there");
        assertRefused(Runs.job(folder).output(folder.resolve("new")).resume("latest"))
                .hasMessageContaining("no checkpoint");
    }

    @ParameterizedTest
    @CsvSource({
        "model.layers.1.mlp.down_proj.weight,layers.1.mlp.down,layers.1",
        "model.layers.0.self_attn.k_proj.weight,layers.0,layers.0",
        "model.norm.weight,norm,head",
        "lm_head.weight,head,head"
    })
    void aWeightThatIsNotFinite(String name, String tensor, String block) throws Exception {
        Path model = spoilt(name, Float.NaN);
        Path output = folder.resolve("spoilt");
        assertRefused(Runs.job(folder).model(model.toString()).output(output))
                .hasMessageContaining("Step 1 ")
                .hasMessageContaining("is in tensor weight:")
                .hasMessageContaining(tensor)
                .hasMessageContaining(" of block " + block + " on rank 0");
        assertThat(Checkpoints.list(output)).isEmpty();
        assertThat(output.resolve("model")).doesNotExist();
    }

    /// Finite weights whose products are not: the first tensor is one that a block has made.
    @Test
    void anActivationThatIsNotFinite() throws Exception {
        Path model = spoilt("model.norm.weight", Float.MAX_VALUE);
        assertRefused(Runs.job(folder).model(model.toString()).output(folder.resolve("spoilt")))
                .hasMessageContaining("Step 1 ")
                .hasMessageContaining("tensor ")
                .hasMessageContaining("of block ");
    }

    @Test
    void aLearningRateFarTooLarge() throws Exception {
        Path output = folder.resolve("steep");
        assertRefused(Runs.job(folder)
                        .output(output)
                        .saveSteps(1)
                        .weightDecay(0)
                        .maxSteps(50)
                        .learningRate(1e30))
                .hasMessageContaining("learning rate");
        for (Checkpoints.Checkpoint saved : Checkpoints.list(output)) {
            assertThat(allFinite(saved.directory())).isTrue();
        }
    }

    private static boolean allFinite(Path checkpoint) {
        try (ModelWeights weights = ModelWeights.open(checkpoint)) {
            for (String name : weights.names()) {
                MemorySegment data = weights.tensor(name).data();
                for (long i = 0; i < data.byteSize(); i += 4) {
                    if (!Float.isFinite(data.get(ValueLayout.JAVA_FLOAT_UNALIGNED, i))) {
                        return false;
                    }
                }
            }
        }
        return true;
    }

    /// A copy of the final model whose tensor of this name begins with 32 such values.
    private Path spoilt(String tensor, float value) throws Exception {
        Path model = Files.createDirectories(folder.resolve("spoilt-model"));
        for (String name : List.of("config.json", "tokenizer.json", "model.safetensors")) {
            Files.copy(run.resolve("model").resolve(name), model.resolve(name));
        }
        Path file = model.resolve("model.safetensors");
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
        int header = (int) bytes.getLong(0);
        String json = new String(bytes.array(), 8, header, StandardCharsets.UTF_8);
        String entry = json.substring(json.indexOf('"' + tensor + '"'));
        int start = Integer.parseInt(entry.replaceFirst("(?s).*?\"data_offsets\":\\s*\\[\\s*(\\d+).*", "$1"));
        for (int i = 0; i < 32; i++) {
            bytes.putFloat(8 + header + start + 4 * i, value);
        }
        Files.write(file, bytes.array(), StandardOpenOption.TRUNCATE_EXISTING);
        return model;
    }
}
