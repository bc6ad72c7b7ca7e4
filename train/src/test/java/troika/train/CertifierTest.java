package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.config.TrainingOptions;
import troika.train.config.TrainingOptionsBuilder;

class CertifierTest {
    @TempDir
    Path folder = Path.of("");

    private TrainingOptionsBuilder job() throws IOException {
        return TrainingOptions.builder()
                .model(Runs.model(folder, Runs.config(false)).toString())
                .tokenizer("byte")
                .data(List.of(RunData.SYNTHETIC))
                .dtype(DType.F32)
                .devices("cpu:1")
                .sequenceLength(16)
                .maxSteps(2);
    }

    private Path temporary() {
        return folder.resolve("temporary");
    }

    /// Batch numbers for one layout are enough for all, as arguments and in DeepSpeed's file.
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            nullValues = "-",
            value = {
                "2 | 1 | -",
                "1 | - | -",
                "- | - | 'train_micro_batch_size_per_gpu': 2, 'gradient_accumulation_steps': 1",
                "- | - | 'train_batch_size': 6, 'train_micro_batch_size_per_gpu': 2, 'gradient_accumulation_steps': 1",
                "- | - | 'train_micro_batch_size_per_gpu': 1",
            })
    void theLayoutThatNeedsMostSaysTheBatch(
            @Nullable Integer micro, @Nullable Integer accumulation, @Nullable String json) throws IOException {
        TrainingOptionsBuilder job = job();
        if (micro != null) {
            job.microBatchSize(micro);
        }
        if (accumulation != null) {
            job.gradientAccumulationSteps(accumulation);
        }
        if (json != null) {
            job.configFile(Files.writeString(folder.resolve("ds.json"), "{" + json.replace('\'', '"') + "}"));
        }
        List<String> lines = new ArrayList<>();
        Certificate certificate =
                new Certifier(job, List.of("dp1", "dp3", "dp2"), temporary(), lines::add).certify(null);
        assertThat(certificate.holds()).isTrue();
        assertThat(lines).hasSize(3);
        assertThat(temporary()).isEmptyDirectory();
    }

    @Test
    void aBatchThatIsTooSmallNamesTheLayout() throws IOException {
        TrainingOptionsBuilder job = job().trainBatchSize(2);
        assertThatThrownBy(() -> new Certifier(job, List.of("dp1", "dp3"), temporary(), _ -> {}))
                .isInstanceOf(UserException.class)
                .hasMessageStartingWith("With --layout \"dp3\": --train-batch-size 2 is fewer sequences than the 3 ");
        TrainingOptionsBuilder nothing = job().data(List.of());
        assertThatThrownBy(() -> new Certifier(nothing, List.of("dp1", "dp3"), temporary(), _ -> {}))
                .hasMessageStartingWith("--data is missing");
    }

    /// The failure is told, though the folder, which is gone, cannot be removed.
    @Test
    void whatFailsFirstIsTold() throws IOException {
        Certifier certifier = new Certifier(job().trainBatchSize(2), List.of("dp1", "dp2"), temporary(), _ -> {
            try (Stream<Path> folders = Files.list(temporary())) {
                for (Path made : folders.toList()) {
                    Files.delete(made);
                }
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
            throw new IllegalStateException("told");
        });
        assertThat(temporary()).doesNotExist();
        assertThatThrownBy(() -> certifier.certify(null))
                .isInstanceOf(IllegalStateException.class)
                .hasMessage("told")
                .satisfies(e -> assertThat(e.getSuppressed()).hasSize(1));
    }
}
