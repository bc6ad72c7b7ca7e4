package troika.plan;

import java.util.List;

/// The whole work of one execution (an optimizer step, an evaluation of one batch, the decoding of
/// one token), for every rank, as data: it can be written as JSON and executed by any Engine
/// ([ProgramJson]).
///
/// @param name "train", "evaluate" or "decode"
/// @param blocks the names of the blocks, for messages
public record StepProgram(String name, List<String> blocks, List<RankProgram> ranks) {
    public StepProgram {
        blocks = List.copyOf(blocks);
        ranks = List.copyOf(ranks);
    }
}
