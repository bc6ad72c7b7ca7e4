package troika.plan;

/// A part of a step's batch that passes through the model at once.
///
/// @param index among all of the step's, over all ranks: those that run the same one have the same index
/// @param sequences of it, 0 or more
public record Microbatch(int index, int sequences) {}
