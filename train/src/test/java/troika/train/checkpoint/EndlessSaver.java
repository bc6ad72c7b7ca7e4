package troika.train.checkpoint;

import java.lang.foreign.MemorySegment;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import troika.model.SafetensorsWriter;
import troika.tensor.DType;
import troika.tensor.Shape;
import troika.tensor.UserException;

/// A program that saves checkpoints until it is killed, or until one cannot be written.
final class EndlessSaver {
    private EndlessSaver() {}

    public static void main(String[] args) {
        Path output = Path.of(args[0]);
        int growth = Integer.parseInt(args[1]);
        var random = new Random();
        Checkpoints.cleanUp(output);
        try {
            for (int i = 1; ; i++) {
                // A few steps only, so that checkpoints are replaced as often as they are new.
                save(output, random.nextInt(5), 10_000 + growth * i, random);
                Checkpoints.prune(output, 3);
                System.out.println("saved");
            }
        } catch (UserException e) {
            System.out.println(e.getMessage());
        }
    }

    static void save(Path output, long step, int floats, Random random) {
        float[] values = new float[floats];
        for (int i = 0; i < floats; i++) {
            values[i] = random.nextFloat();
        }
        var entries = List.of(
                new SafetensorsWriter.Entry("a", DType.F32, Shape.of(floats)),
                new SafetensorsWriter.Entry("b", DType.F32, Shape.of(1, floats)));
        try (var writer = CheckpointWriter.checkpoint(output, step)) {
            for (String stem : List.of("model", "optimizer")) {
                writer.tensors(stem, entries, stem.equals("model") ? 4 : Long.MAX_VALUE);
                writer.write("a", MemorySegment.ofArray(values));
                writer.write("b", MemorySegment.ofArray(values).asSlice(0, 8));
                writer.write("b", MemorySegment.ofArray(values).asSlice(8));
            }
            writer.file("trainer_state.json", ("{\"step\": " + step + "}\n").getBytes(StandardCharsets.UTF_8));
            writer.commit();
        }
    }
}
