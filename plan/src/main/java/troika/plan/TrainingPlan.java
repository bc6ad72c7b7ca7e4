package troika.plan;

import java.util.List;

/// What a training run executes and where its state lies.
///
/// @param evaluate the loss of a batch of the same shape; it shares the arenas of `train`
/// @param memory by rank
/// @param batches by rank: sequences of each of its microbatches
public record TrainingPlan(
        StepProgram train,
        StepProgram evaluate,
        List<ParameterGroup> groups,
        List<MemoryPlan> memory,
        List<List<Integer>> batches) {}
