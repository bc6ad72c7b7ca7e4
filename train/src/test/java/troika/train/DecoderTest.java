package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.model.ModelConfig;
import troika.tensor.DType;
import troika.tensor.UserException;

class DecoderTest {
    @TempDir
    Path folder = Path.of("");

    /// The weights turn out not to fit only when the engine is there.
    @Test
    void whatWasOpenedIsClosedWhereWeightsDoNotFit() throws Exception {
        Path model = Runs.train(Runs.job(folder).output(folder.resolve("run")).maxSteps(1))
                .modelDirectory();
        ModelConfig config = ModelConfig.read(model);
        TinyRun.config(config, config.layers() + 1).write(Files.createDirectories(folder.resolve("deeper")), "float32");
        Files.copy(
                folder.resolve("deeper/config.json"),
                Files.createDirectories(folder.resolve("copy")).resolve("config.json"));
        try (Stream<Path> files = Files.list(model)) {
            for (Path file : files.toList()) {
                if (file.toString().contains("safetensors")) {
                    Files.copy(file, folder.resolve("copy").resolve(file.getFileName()));
                }
            }
        }
        long before = threads();
        assertThatThrownBy(() -> Decoder.open(folder.resolve("copy"), "cpu:1", 16, DType.F32))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("layers.2");
        assertThat(threads()).isEqualTo(before);
    }

    private static long threads() {
        return Thread.getAllStackTraces().keySet().stream()
                .filter(thread ->
                        thread.getName().contains("rank 0") || thread.getName().contains("cpu"))
                .count();
    }
}
