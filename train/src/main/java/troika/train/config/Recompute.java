package troika.train.config;

import java.util.Locale;

/// Which activations backward computes a second time instead of keeping them.
public enum Recompute {
    /// None: everything is kept.
    NONE,
    /// All inside a layer: only the layers' inputs are kept.
    LAYER;

    /// The word that users write: none or layer.
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }

    /// Reads what follows `--recompute`.
    public static Recompute of(String word) {
        return Words.of("--recompute", word, values(), Recompute::word);
    }
}
