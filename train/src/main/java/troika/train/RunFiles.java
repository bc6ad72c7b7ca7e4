package troika.train;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import tools.jackson.databind.node.ObjectNode;
import troika.model.ByteTokenizer;
import troika.model.JsonFields;
import troika.model.ModelConfig;
import troika.model.Tokenizer;
import troika.tensor.DType;
import troika.train.checkpoint.CheckpointWriter;
import troika.train.checkpoint.Checkpoints;
import troika.train.config.Sharing;
import troika.train.config.TrainingOptions;

/// What a run leaves behind: checkpoints, the final model, and what run.json says.
///
/// @param root the run's folder
record RunFiles(Path root, TrainingOptions options, ModelSource source) {
    /// Writes a checkpoint and drops those that are too many.
    Path checkpoint(ModelState state, TrainerState trainer) {
        try (CheckpointWriter writer = CheckpointWriter.checkpoint(root, trainer.step())) {
            writeModel(writer, state);
            state.saveOptimizer(writer);
            writer.file(TrainerState.FILE, trainer.json());
            writer.commit();
        }
        if (options.saveTotalLimit() > 0) {
            Checkpoints.prune(root, options.saveTotalLimit());
        }
        return Checkpoints.directory(root, trainer.step());
    }

    /// Writes the final model.
    Path model(ModelState state) {
        try (CheckpointWriter writer = CheckpointWriter.model(root)) {
            writeModel(writer, state);
            writer.commit();
        }
        return root.resolve("model");
    }

    private void writeModel(CheckpointWriter writer, ModelState state) {
        state.save(writer, options.saveDtype());
        writer.file(ModelConfig.FILE, source.config().json(torchName(options.saveDtype())));
        Path files = source.tokenizerFiles();
        if (files == null) {
            writer.file(Tokenizer.FILE, ByteTokenizer.tokenizerJson());
            writer.file("tokenizer_config.json", ByteTokenizer.configJson());
            return;
        }
        for (String name : List.of(Tokenizer.FILE, "tokenizer_config.json", "special_tokens_map.json")) {
            Path file = files.resolve(name);
            if (Files.isRegularFile(file)) {
                try {
                    writer.file(name, Files.readAllBytes(file));
                } catch (IOException e) {
                    throw new UncheckedIOException(e);
                }
            }
        }
    }

    private static String torchName(DType dtype) {
        return switch (dtype) {
            case F32 -> "float32";
            case BF16 -> "bfloat16";
            case F16 -> "float16";
            case I32 -> throw new IllegalArgumentException("weights are no integers");
        };
    }

    /// What run.json says, but for the device, which may still be opening.
    ObjectNode description(long parameters, long totalSteps) {
        Sharing sharing = options.sharing();
        ObjectNode node = JsonFields.newObject();
        node.put("troika", "0.1.0");
        node.put("java", Runtime.version().toString());
        node.put("device", "");
        node.put("ranks", options.ranks());
        node.put("layout", sharing.layout().toString());
        sharing.layout().shares().forEach(node.putArray("shares")::add);
        node.put("parameters", parameters);
        node.put("total_steps", totalSteps);
        ObjectNode resolved = node.putObject("options");
        describe(options, resolved);
        return node;
    }

    private static void describe(Record record, ObjectNode node) {
        for (var component : record.getClass().getRecordComponents()) {
            try {
                Object value = component.getAccessor().invoke(record);
                if (value instanceof Sharing sharing) {
                    describe(sharing, node.putObject(component.getName()));
                } else {
                    node.put(component.getName(), String.valueOf(value));
                }
            } catch (ReflectiveOperationException e) {
                throw new IllegalStateException(component.getName().toLowerCase(Locale.ROOT), e);
            }
        }
    }
}
