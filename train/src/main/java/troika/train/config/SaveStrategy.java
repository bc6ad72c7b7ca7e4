package troika.train.config;

import java.util.Locale;

/// When checkpoints are written during a run.
public enum SaveStrategy {
    /// Never; the final model is still written.
    NO,
    /// Every `--save-steps` steps.
    STEPS,
    /// After each pass over the data.
    EPOCH;

    /// The word that users write: no, steps or epoch.
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }

    /// Reads what follows `--save-strategy`.
    public static SaveStrategy of(String word) {
        return Words.of("--save-strategy", word, values(), SaveStrategy::word);
    }
}
