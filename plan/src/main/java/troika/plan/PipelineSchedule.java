package troika.plan;

/// The order in which a pipeline's stages run forward and backward of their microbatches.
public enum PipelineSchedule {
    /// One forward, one backward.
    ONE_F_ONE_B("1f1b"),
    /// The same over several chunks a stage, which shortens the bubble.
    INTERLEAVED("interleaved"),
    /// Weight gradients wait until the pipeline would be idle.
    ZERO_BUBBLE("zero-bubble");

    private final String word;

    PipelineSchedule(String word) {
        this.word = word;
    }

    /// The word that users write.
    public String word() {
        return word;
    }
}
