package troika.train;

import java.util.List;
import troika.plan.MemoryPlan;

/// What is known when a run starts.
///
/// @param totalSteps of the run, those of an earlier part that it resumes included
/// @param parameters of the model, tied ones counted once
/// @param ranks of the layout
/// @param device in words
/// @param notes how the device's kernels work where there is a choice, a sentence each
/// @param arenaBytes memory that all ranks hold together
/// @param memory the device arena of the rank whose arena is the largest
/// @param sequenceLength tokens of a sequence
/// @param batchSequences sequences of a step over all ranks
public record TrainingStart(
        long totalSteps,
        long parameters,
        int ranks,
        String device,
        List<String> notes,
        long arenaBytes,
        MemoryPlan memory,
        long sequenceLength,
        long batchSequences) {
    public TrainingStart {
        notes = List.copyOf(notes);
    }
}
