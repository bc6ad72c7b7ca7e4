package troika.train.engine;

/// Where the first value that is not finite came from.
///
/// @param where in words: tensor, block, instruction, rank
/// @param rank on which it was
/// @param microbatch the rank's own count; −1 where it belongs to none
/// @param token the row of the microbatch, all its sequences one behind the other; −1 where it belongs to
/// none, as in weights
public record NonFinite(String where, int rank, int microbatch, long token) {}
