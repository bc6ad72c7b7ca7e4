package troika.plan;

import java.util.List;

/// What a training run executes and where its state lies.
///
/// @param evaluate the loss of a batch of the same shape; it shares the arenas of `train`
/// @param groups by rank
/// @param memory by rank
/// @param microbatches by rank, in the order of their indices
public record TrainingPlan(
        StepProgram train,
        StepProgram evaluate,
        List<List<ParameterGroup>> groups,
        List<MemoryPlan> memory,
        List<List<Microbatch>> microbatches) {}
