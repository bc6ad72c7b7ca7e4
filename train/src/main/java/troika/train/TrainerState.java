package troika.train;

import java.nio.file.Path;
import tools.jackson.databind.node.ObjectNode;
import troika.model.JsonFields;
import troika.tensor.UserException;
import troika.train.data.BatchCursor;

/// Where a run stands, as `trainer_state.json` has it.
///
/// @param data what it trains on: see [RunData#key]
record TrainerState(long step, BatchCursor cursor, long seed, int sequenceLength, String data) {
    static final String FILE = "trainer_state.json";

    byte[] json() {
        ObjectNode node = JsonFields.newObject();
        node.put("global_step", step);
        node.put("epoch", cursor.epoch());
        node.put("next_sample", cursor.nextSample());
        node.put("seed", seed);
        node.put("sequence_length", sequenceLength);
        node.put("data", data);
        return JsonFields.write(node);
    }

    static TrainerState read(Path checkpoint) {
        JsonFields fields = JsonFields.read(checkpoint.resolve(FILE));
        return new TrainerState(
                fields.whole("global_step", 0, Long.MAX_VALUE),
                new BatchCursor(
                        fields.whole("epoch", 0, Long.MAX_VALUE), fields.whole("next_sample", 0, Long.MAX_VALUE)),
                fields.whole("seed", Long.MIN_VALUE, Long.MAX_VALUE),
                (int) fields.whole("sequence_length", 1, Integer.MAX_VALUE),
                fields.string("data"));
    }

    /// Refuses to go on with other data than `now`'s, because the position in them would mean nothing.
    void check(TrainerState now, Path checkpoint) {
        if (seed != now.seed || sequenceLength != now.sequenceLength || !data.equals(now.data)) {
            String what = seed != now.seed
                    ? "--seed " + seed
                    : sequenceLength != now.sequenceLength ? "--sequence-length " + sequenceLength : "other data";
            throw new UserException("The checkpoint " + checkpoint + " was made with " + what
                    + ": resume with the same, or start a new run with --model " + checkpoint + ".");
        }
    }
}
