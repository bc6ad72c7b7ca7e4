package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.function.UnaryOperator;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.model.ModelWeights;
import troika.tensor.DType;
import troika.train.config.LayoutWords;
import troika.train.config.SaveStrategy;
import troika.train.config.TrainingOptionsBuilder;

/// One seed and one layout give one result, bit for bit, also where the run was stopped on the way.
class SameTest {
    private static final int STEPS = 6;

    @TempDir
    Path folder = Path.of("");

    private TrainingOptionsBuilder job(String output, DType dtype, int ranks, int zero) throws Exception {
        return Runs.job(folder)
                .dtype(dtype)
                .devices(TestDevices.named(ranks))
                .zeroStage(zero)
                .output(folder.resolve(output));
    }

    @ParameterizedTest
    @CsvSource({"F32,1,0", "BF16,1,0", "F32,3,1", "BF16,3,1", "BF16,2,2"})
    void twiceTheSame(DType dtype, int ranks, int zero) throws Exception {
        Runs.train(job("a", dtype, ranks, zero));
        Runs.train(job("b", dtype, ranks, zero));
        assertThat(Runs.metrics(folder.resolve("a"))).hasSize(STEPS).isEqualTo(Runs.metrics(folder.resolve("b")));
        assertThat(Runs.files(folder.resolve("a/model"))).isEqualTo(Runs.files(folder.resolve("b/model")));
    }

    /// A run in a layout given as certify takes it.
    private TrainingOptionsBuilder layout(String output, DType dtype, String layout) throws Exception {
        TrainingOptionsBuilder run = LayoutWords.apply(layout, job(output, dtype, 1, 0));
        return run.devices(TestDevices.named(run.build().ranks()));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            value = {
                "BF16; dp3 zero3; 3",
                "F32; tp3; 2",
                "BF16; 0,1:dp2 | 2 zero3 acc2; 4",
                "F32; 0,1:tp2 | 2 zero-bubble acc3; 3",
            })
    void stoppedAndResumedInALayoutIsTheSame(DType dtype, String layout, long stop) throws Exception {
        Runs.train(layout("straight", dtype, layout));
        assertThat(Runs.trainUntil(layout("stopped", dtype, layout), stop).cancelled())
                .isTrue();
        Runs.train(layout("stopped", dtype, layout).resume("latest"));
        assertThat(Runs.metrics(folder.resolve("stopped"))).isEqualTo(Runs.metrics(folder.resolve("straight")));
        assertThat(Runs.files(folder.resolve("stopped/model"))).isEqualTo(Runs.files(folder.resolve("straight/model")));
    }

    @Test
    void anotherSeedIsAnotherRun() throws Exception {
        Runs.train(job("a", DType.F32, 1, 0));
        Runs.train(job("b", DType.F32, 1, 0).seed(2));
        assertThat(Runs.losses(folder.resolve("a"))).isNotEqualTo(Runs.losses(folder.resolve("b")));
    }

    /// Step 4 takes the short last batch of the first epoch.
    @ParameterizedTest
    @CsvSource({"F32,1,0,2", "BF16,3,1,4", "F32,3,2,3"})
    void cancelledAndResumedIsTheSame(DType dtype, int ranks, int zero, long stop) throws Exception {
        Runs.train(job("straight", dtype, ranks, zero));
        assertThat(Files.readString(folder.resolve("straight/metrics.jsonl"))).contains("\"epoch\":1.0");
        TrainingResult first = Runs.trainUntil(job("stopped", dtype, ranks, zero), stop);
        assertThat(first.cancelled()).isTrue();
        assertThat(first.modelDirectory()).endsWithRaw(Path.of("step-" + stop));
        assertThat(folder.resolve("stopped/model")).doesNotExist();
        TrainingResult second = Runs.train(job("stopped", dtype, ranks, zero).resume("latest"));
        assertThat(second.steps()).isEqualTo(STEPS);
        assertThat(Runs.metrics(folder.resolve("stopped"))).isEqualTo(Runs.metrics(folder.resolve("straight")));
        assertThat(Runs.files(folder.resolve("stopped/model"))).isEqualTo(Runs.files(folder.resolve("straight/model")));
    }

    @Test
    void resumesAnOlderCheckpointByItsFolder() throws Exception {
        UnaryOperator<TrainingOptionsBuilder> saving =
                options -> options.saveStrategy(SaveStrategy.STEPS).saveSteps(1);
        Runs.train(saving.apply(job("run", DType.F32, 2, 1)));
        List<String> metrics = Runs.metrics(folder.resolve("run"));
        var model = Runs.files(folder.resolve("run/model"));
        var last = Runs.files(folder.resolve("run/checkpoints/step-6"));
        Runs.train(saving.apply(job("run", DType.F32, 2, 1))
                .resume(folder.resolve("run/checkpoints/step-2").toString()));
        assertThat(Runs.metrics(folder.resolve("run"))).isEqualTo(metrics);
        assertThat(Runs.files(folder.resolve("run/model"))).isEqualTo(model);
        assertThat(Runs.files(folder.resolve("run/checkpoints/step-6"))).isEqualTo(last);
        // Into a folder of its own: only the new steps' metrics are there.
        Runs.train(saving.apply(job("other", DType.F32, 2, 1))
                .resume(folder.resolve("run/checkpoints/step-4").toString()));
        assertThat(Runs.metrics(folder.resolve("other"))).isEqualTo(metrics.subList(4, 6));
        assertThat(Runs.files(folder.resolve("other/model"))).isEqualTo(model);
    }

    /// The layout until the stop, and after it.
    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            value = {
                "dp1; dp2 zero1",
                "dp2 zero1; dp3",
                "dp3 zero2; dp1",
                "dp2 zero2; dp2 zero1",
                "dp3 zero3; 0,1:tp2 | 2 acc2",
                "0,1:dp2 | 2 acc2; tp3",
                "tp2 pp2 acc2; dp5 zero3",
                "0 | 1,2:tp2 sequence-parallel; dp2 shares=1,0.5",
            })
    void resumesInAnotherLayout(String layout, String other) throws Exception {
        Runs.train(layout("straight", DType.F32, layout));
        Runs.trainUntil(layout("moved", DType.F32, layout), 3);
        Runs.train(layout("moved", DType.F32, other).resume("latest"));
        List<Double> expected = Runs.losses(folder.resolve("straight"));
        List<Double> losses = Runs.losses(folder.resolve("moved"));
        assertThat(losses).hasSize(STEPS);
        for (int i = 0; i < STEPS; i++) {
            assertThat(losses.get(i))
                    .isCloseTo(expected.get(i), within(TestDevices.layoutTolerance() * expected.get(i)));
        }
        try (ModelWeights straight = ModelWeights.open(folder.resolve("straight/model"));
                ModelWeights moved = ModelWeights.open(folder.resolve("moved/model"))) {
            assertThat(moved.names()).isNotEmpty().isEqualTo(straight.names());
            for (String name : straight.names()) {
                assertThat(TinyRun.distance(floats(straight, name), floats(moved, name)))
                        .as(name)
                        .isLessThan(1e-4);
            }
        }
    }

    private static float[] floats(ModelWeights weights, String name) {
        return weights.tensor(name).data().toArray(ValueLayout.JAVA_FLOAT_UNALIGNED);
    }

    @Test
    void resumingAFinishedRunWritesItsModelAgain() throws Exception {
        Runs.train(job("run", DType.F32, 1, 0).saveSteps(3));
        var model = Runs.files(folder.resolve("run/model"));
        TrainingResult again =
                Runs.train(job("run", DType.F32, 1, 0).saveSteps(3).resume("latest"));
        assertThat(again.steps()).isEqualTo(STEPS);
        assertThat(again.finalLoss()).isNaN();
        assertThat(Runs.files(folder.resolve("run/model"))).isEqualTo(model);
        assertThat(Runs.losses(folder.resolve("run"))).hasSize(STEPS);
    }
}
