package troika.train.example;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.train.Runs;
import troika.train.TrainingResult;
import troika.train.checkpoint.Checkpoints;

/// The documents' example does what it says.
class TrainFromJavaTest {
    @TempDir
    Path folder = Path.of("");

    @Test
    void trainsAndGenerates() throws Exception {
        String model = Runs.model(folder, Runs.config(false)).toString();
        String text = Runs.text(folder, 20).toString();
        Path output = folder.resolve("run");
        TrainingResult result = TrainFromJava.train(model, text, output, 5, 0);
        assertThat(result.cancelled()).isFalse();
        assertThat(result.steps()).isEqualTo(5);
        assertThat(TrainFromJava.continued(result.modelDirectory(), "the ")).startsWith("the ");
    }

    @Test
    void stopsAtItsGoal() throws Exception {
        String model = Runs.model(folder, Runs.config(false)).toString();
        String text = Runs.text(folder, 20).toString();
        TrainingResult result = TrainFromJava.train(model, text, folder.resolve("run"), 500, 5.4);
        assertThat(result.cancelled()).isTrue();
        assertThat(result.finalLoss()).isLessThan(5.4);
        assertThat(result.modelDirectory()).isEqualTo(Checkpoints.directory(folder.resolve("run"), result.steps()));
    }
}
