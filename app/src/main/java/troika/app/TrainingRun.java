package troika.app;

import java.io.PrintStream;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import troika.tensor.UserException;
import troika.train.Trainer;
import troika.train.TrainingListener;
import troika.train.TrainingResult;
import troika.train.TrainingStart;
import troika.train.config.TrainingOptions;

/// Trains in the command: Ctrl-C and SIGTERM let the run save before the process ends.
final class TrainingRun {
    private TrainingRun() {}

    /// Trains; where a signal stops the run, says so to `out` before the process ends.
    static TrainingResult of(TrainingOptions options, TrainingListener listener, PrintStream out) {
        AtomicBoolean started = new AtomicBoolean();
        TrainingListener onStart = new TrainingListener() {
            @Override
            public void onStart(TrainingStart start) {
                started.set(true);
            }
        };
        Trainer trainer =
                Trainer.of(options).listener(onStart).listener(listener).build();
        CountDownLatch ended = new CountDownLatch(1);
        Thread onSignal = new Thread(
                () -> {
                    trainer.cancel();
                    if (!started.get()) {
                        return; // There is nothing to save yet, and tokenising may take long.
                    }
                    try {
                        ended.await();
                    } catch (InterruptedException e) {
                        Thread.currentThread().interrupt();
                    }
                },
                "troika-signal");
        Runtime.getRuntime().addShutdownHook(onSignal);
        try {
            TrainingResult result = trainer.train();
            if (result.cancelled()) {
                out.println("Stopped after step " + result.steps() + "; --resume goes on from there.");
            }
            return result;
        } catch (UserException e) {
            if (isStopping(onSignal)) {
                // Main may not come to print it before the process ends.
                out.println(e.getMessage());
            }
            throw e;
        } finally {
            ended.countDown();
            isStopping(onSignal);
        }
    }

    /// Whether the process is ending; if not, it forgets the hook.
    static boolean isStopping(Thread hook) {
        try {
            Runtime.getRuntime().removeShutdownHook(hook);
            return false;
        } catch (IllegalStateException ending) {
            return true;
        }
    }

    /// Tells what came of a run. `unit` is what a token is.
    static void report(TrainingResult result, PrintStream out, String unit) {
        if (!Double.isNaN(result.evaluationLoss())) {
            out.printf(Locale.ROOT, "Held-out loss: %.4f nats a %s%n", result.evaluationLoss(), unit);
        } else if (!Double.isNaN(result.finalLoss())) {
            out.printf(Locale.ROOT, "Loss: %.4f nats a %s%n", result.finalLoss(), unit);
        }
        out.printf(Locale.ROOT, "Speed: %.0f tokens/s%n", result.tokensPerSecond());
        out.printf(Locale.ROOT, "Memory: %s at most%n", ProgressBar.bytes(result.memoryBytes()));
        out.println("Model: " + result.modelDirectory());
    }
}
