package troika.train.config;

import java.util.Locale;

/// Which activations backward computes a second time instead of keeping them.
public enum Recompute {
    /// None: everything is kept.
    NONE,
    /// What norms and SwiGLUs gave, which their backward kernels make again at little cost.
    ELEMENTWISE,
    /// All inside a layer: only the layers' inputs are kept.
    LAYER;

    /// The word that users write: none, elementwise or layer.
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }

    /// Reads what follows `--recompute`.
    public static Recompute of(String word) {
        return Words.of("--recompute", word, values(), Recompute::word);
    }
}
