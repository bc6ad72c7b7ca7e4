package troika.app;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Test;
import troika.plan.MemoryPlan;
import troika.plan.TensorSpec;
import troika.train.StepMetrics;
import troika.train.TrainingResult;
import troika.train.TrainingStart;

class ProgressBarTest {
    private static final MemoryPlan MEMORY = new MemoryPlan(
            0,
            Map.of(
                    TensorSpec.Role.WEIGHTS, 10L << 20,
                    TensorSpec.Role.MASTER_WEIGHTS, 5L << 20,
                    TensorSpec.Role.MOMENTS, 1200L << 20,
                    TensorSpec.Role.GRADIENTS, 20L << 20,
                    TensorSpec.Role.ACTIVATIONS, 100L << 20,
                    TensorSpec.Role.WORKSPACE, 1L << 20,
                    TensorSpec.Role.INPUTS, 1L << 19),
            1L << 18,
            1400L << 20);
    private static final TrainingStart START =
            new TrainingStart(100, 5_260_000, 3, "cpu", List.of("Attention is by hand."), 1L << 30, MEMORY, 256, 24);

    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    private final AtomicLong nanos = new AtomicLong(3_000_000_000L);

    private ProgressBar bar(boolean terminal, int width) {
        return new ProgressBar(new PrintStream(bytes, true, UTF_8), terminal, width, 10, nanos::get);
    }

    private String shown() {
        return bytes.toString(UTF_8);
    }

    private void step(ProgressBar bar, long step) {
        nanos.addAndGet(1_000_000_000);
        bar.onStep(new StepMetrics(step, 2.5, 1.25, 3e-4, 6144, 12_345, 0.5, 0.1, 1536L << 20, false, 1));
    }

    @Test
    void withoutATerminalEachTenthStepIsALine() {
        ProgressBar bar = bar(false, 80);
        bar.onStart(START);
        for (int step = 1; step <= 25; step++) {
            step(bar, step);
        }
        bar.onSave(Path.of("checkpoints", "step-25"));
        assertThat(shown().lines())
                .containsExactly(
                        "5.26M parameters on 3 ranks of cpu; 100 steps of 24 sequences of 256 tokens; 1.0 GiB of arenas",
                        "Attention is by hand.",
                        "memory of the largest rank, MiB:",
                        "  weights        10.0   master weights       5.0   moments      1200.0",
                        "  gradients      20.0   activations        100.0   workspace       1.0",
                        "  inputs          0.5   padding              0.3   total        1400.0",
                        "first step done 4.0 s after the start of the JVM",
                        "step 1/100: loss 2.5000, gradient norm 1.250, learning rate 3.00e-04, 12.3k tokens/s, 1.5 GiB",
                        "step 10/100: loss 2.5000, gradient norm 1.250, learning rate 3.00e-04, 12.3k tokens/s, 1.5 GiB,"
                                + " 0:45 left",
                        "step 20/100: loss 2.5000, gradient norm 1.250, learning rate 3.00e-04, 12.3k tokens/s, 1.5 GiB,"
                                + " 0:40 left",
                        "saved " + Path.of("checkpoints", "step-25"));
    }

    @Test
    void skippedStepsAreAllSaid() {
        for (boolean terminal : new boolean[] {false, true}) {
            bytes.reset();
            ProgressBar bar = bar(terminal, 90);
            bar.onStart(START);
            bytes.reset();
            for (int step = 2; step <= 4; step++) {
                boolean skipped = step < 4;
                bar.onStep(new StepMetrics(step, 2.5, Double.NaN, 1, 1, 1, 0.01, 0, 0, skipped, 65536 >> step));
            }
            assertThat(shown())
                    .contains(
                            "step 2/100: skipped, since gradients overflowed at the loss scale 16384",
                            "step 3/100: skipped, since gradients overflowed at the loss scale 8192")
                    .doesNotContain("4/100: skipped");
        }
    }

    @Test
    void onATerminalOneLineLives() {
        ProgressBar bar = bar(true, 90);
        bar.onStart(START);
        bytes.reset();
        step(bar, 49);
        assertThat(shown()).startsWith("first step done 4.0 s after the start of the JVM" + System.lineSeparator());
        bytes.reset();
        step(bar, 50);
        bar.onMessage("hello");
        String[] drawings = shown().split("\r", -1);
        assertThat(drawings[1])
                .matches(
                        "50/100 \\[=+ +] loss 2\\.500, 12\\.3k tokens/s, lr 3\\.00e-04, 1\\.5 GiB, 0:25 left\u001b\\[K");
        assertThat(drawings[2]).isEqualTo("\u001b[Khello" + System.lineSeparator());
        step(bar, 100);
        bar.onEnd(new TrainingResult(100, 2.5, Double.NaN, 12_345, 1L << 30, Path.of("model"), false));
        assertThat(shown()).endsWith("\u001b[K" + System.lineSeparator()).contains("100/100 [");
    }

    @Test
    void theLineFitsItsTerminal() {
        for (int width = 40; width < 130; width++) {
            bytes.reset();
            ProgressBar bar = bar(true, width);
            bar.onStart(START);
            bytes.reset();
            step(bar, 1);
            step(bar, 2);
            for (String drawing : shown().split("\r", -1)) {
                if (drawing.startsWith("first step done")) {
                    continue;
                }
                assertThat(drawing.replace("\u001b[K", "")).hasSizeLessThan(width);
            }
        }
    }

    @Test
    void redrawsAtMostTenTimesASecond() {
        ProgressBar bar = bar(true, 80);
        bar.onStart(START);
        bytes.reset();
        for (int step = 1; step <= 50; step++) {
            nanos.addAndGet(10_000_000);
            bar.onStep(new StepMetrics(step, 2.5, 1, 1, 1, 1, 0.01, 0, 0, false, 1));
        }
        assertThat(shown().chars().filter(c -> c == '\r').count()).isBetween(4L, 6L);
    }

    @Test
    void numbersAreShort() {
        assertThat(ProgressBar.duration(59.6)).isEqualTo("1:00");
        assertThat(ProgressBar.duration(3725)).isEqualTo("1:02:05");
        assertThat(ProgressBar.amount(950)).isEqualTo("950");
        assertThat(ProgressBar.amount(10_100_000_000.0)).isEqualTo("10.10G");
        assertThat(ProgressBar.bytes(300L << 20)).isEqualTo("300 MiB");
        assertThat(ProgressBar.width("132")).isEqualTo(132);
        assertThat(ProgressBar.width("x")).isEqualTo(80);
        assertThat(ProgressBar.width(null)).isEqualTo(80);
    }
}
