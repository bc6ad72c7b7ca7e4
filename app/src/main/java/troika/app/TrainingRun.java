package troika.app;

import java.io.PrintStream;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import troika.train.Trainer;
import troika.train.TrainingListener;
import troika.train.TrainingResult;
import troika.train.config.TrainingOptions;

/// Trains in the command: Ctrl-C and SIGTERM let the run save before the process ends.
final class TrainingRun {
    private TrainingRun() {}

    static TrainingResult of(TrainingOptions options, TrainingListener listener) {
        Trainer trainer = Trainer.of(options).listener(listener).build();
        CountDownLatch ended = new CountDownLatch(1);
        Thread onSignal = new Thread(
                () -> {
                    trainer.cancel();
                    try {
                        ended.await();
                    } catch (InterruptedException e) {
                        Thread.currentThread().interrupt();
                    }
                },
                "troika-signal");
        Runtime.getRuntime().addShutdownHook(onSignal);
        try {
            return trainer.train();
        } finally {
            ended.countDown();
            try {
                Runtime.getRuntime().removeShutdownHook(onSignal);
            } catch (IllegalStateException ending) {
                // A signal came: the hook is running and ends now.
            }
        }
    }

    /// Tells what came of a run. `unit` is what a token is.
    static void report(TrainingResult result, PrintStream out, String unit) {
        if (result.cancelled()) {
            out.println("Stopped after step " + result.steps() + "; --resume goes on from there.");
        }
        if (!Double.isNaN(result.evaluationLoss())) {
            out.printf(Locale.ROOT, "Held-out loss: %.4f nats a %s%n", result.evaluationLoss(), unit);
        } else {
            out.printf(Locale.ROOT, "Loss: %.4f nats a %s%n", result.finalLoss(), unit);
        }
        out.printf(Locale.ROOT, "Speed: %.0f tokens/s%n", result.tokensPerSecond());
        out.println("Model: " + result.modelDirectory());
    }
}
