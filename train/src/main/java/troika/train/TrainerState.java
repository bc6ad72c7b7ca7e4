package troika.train;

import java.nio.file.Path;
import tools.jackson.databind.node.ObjectNode;
import troika.model.JsonFields;
import troika.tensor.UserException;
import troika.train.config.LossScaling;
import troika.train.data.BatchCursor;

/// Where a run stands, as `trainer_state.json` has it.
///
/// @param skipped steps of these that updated nothing, since gradients overflowed
/// @param scaler the loss scale
/// @param data what it trains on: see [RunData#key]
record TrainerState(
        long step, long skipped, LossScaler scaler, BatchCursor cursor, long seed, int sequenceLength, String data) {
    static final String FILE = "trainer_state.json";

    private static final String LOSS_SCALE = "loss_scale";

    byte[] json() {
        ObjectNode node = JsonFields.newObject();
        node.put("global_step", step);
        node.put("skipped_steps", skipped);
        if (scaler.settings().dynamic()) {
            scaler.write(node.putObject(LOSS_SCALE));
        }
        node.put("epoch", cursor.epoch());
        node.put("next_sample", cursor.nextSample());
        node.put("seed", seed);
        node.put("sequence_length", sequenceLength);
        node.put("data", data);
        return JsonFields.write(node);
    }

    /// @param scaling the options of the run that goes on; its scale is the checkpoint's, if both are dynamic
    static TrainerState read(Path checkpoint, LossScaling scaling) {
        JsonFields fields = JsonFields.read(checkpoint.resolve(FILE));
        long step = fields.whole("global_step", 0, Long.MAX_VALUE);
        return new TrainerState(
                step,
                fields.whole("skipped_steps", 0, step, 0),
                scaling.dynamic() && fields.has(LOSS_SCALE)
                        ? LossScaler.read(scaling, fields.object(LOSS_SCALE))
                        : LossScaler.start(scaling),
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
