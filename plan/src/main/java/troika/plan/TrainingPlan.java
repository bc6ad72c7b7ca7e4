package troika.plan;

import java.util.List;

/// What a training run executes and where its state lies.
///
/// @param evaluate the loss of a batch of the same shape; it shares the arenas of `train`
/// @param groups by rank: the parameter groups that it holds
/// @param memory by rank
/// @param microbatches by rank: those that pass it, in the order of its input tensors
public record TrainingPlan(
        StepProgram train,
        StepProgram evaluate,
        Layout layout,
        List<List<ParameterGroup>> groups,
        List<MemoryPlan> memory,
        List<List<Microbatch>> microbatches) {}
