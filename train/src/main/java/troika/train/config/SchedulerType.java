package troika.train.config;

import java.util.Locale;
import org.jspecify.annotations.Nullable;

/// The course of the learning rate after its warmup, named as Hugging Face names it.
public enum SchedulerType {
    /// Falls in a straight line to the smallest learning rate at the last step; DeepSpeed's WarmupDecayLR.
    LINEAR,
    /// Falls along half a cosine to the smallest learning rate at the last step; DeepSpeed's
    /// WarmupCosineLR.
    COSINE,
    /// Stays, without a warmup.
    CONSTANT,
    /// Stays; DeepSpeed's WarmupLR.
    CONSTANT_WITH_WARMUP;

    /// The word that users write: linear, cosine, constant or constant_with_warmup.
    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }

    /// Reads what follows `--lr-scheduler-type`: a Hugging Face name or one of DeepSpeed's three.
    public static SchedulerType of(String word) {
        SchedulerType deepSpeed = ofDeepSpeed(word);
        if (deepSpeed != null) {
            return deepSpeed;
        }
        return Words.of("--lr-scheduler-type", word, values(), SchedulerType::word);
    }

    /// The type that stands for DeepSpeed's; null for one that this build lacks, such as OneCycle.
    static @Nullable SchedulerType ofDeepSpeed(String type) {
        return switch (type) {
            case "WarmupLR" -> CONSTANT_WITH_WARMUP;
            case "WarmupDecayLR" -> LINEAR;
            case "WarmupCosineLR" -> COSINE;
            default -> null;
        };
    }
}
