package troika.train;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.List;
import troika.model.ModelConfig;
import troika.model.SafetensorsWriter;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Writes the logits of a saved model on a fixed sequence, for `src/test/python/check_export.py` to
/// compare: ExportedLogits MODEL FILE.
final class ExportedLogits {
    private static final int TOKENS = 48;

    private ExportedLogits() {}

    public static void main(String[] arguments) throws IOException {
        Path model = Path.of(arguments[0]);
        ModelConfig config = ModelConfig.read(model);
        int vocabulary = config.vocabSize();
        int[] ids = new int[TOKENS];
        float[] logits = new float[TOKENS * vocabulary];
        try (Decoder decoder = Decoder.open(model, "cpu:1", TOKENS, DType.F32)) {
            for (int i = 0; i < TOKENS; i++) {
                ids[i] = (i * 37 + 32) % 97;
                decoder.decode(ids[i], i);
                System.arraycopy(decoder.logits(), 0, logits, i * vocabulary, vocabulary);
            }
        }
        SafetensorsWriter.Entry tokens = new SafetensorsWriter.Entry("ids", DType.I32, new Shape(1, TOKENS));
        SafetensorsWriter.Entry scores =
                new SafetensorsWriter.Entry("logits", DType.F32, new Shape(1, TOKENS, vocabulary));
        try (SafetensorsWriter writer = SafetensorsWriter.create(Path.of(arguments[1]), List.of(tokens, scores))) {
            writer.write("ids", MemorySegment.ofArray(ids));
            writer.write("logits", MemorySegment.ofArray(logits));
            writer.finish();
        }
    }
}
