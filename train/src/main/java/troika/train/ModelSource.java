package troika.train;

import java.nio.file.Files;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import troika.model.ByteTokenizer;
import troika.model.ModelConfig;
import troika.model.Presets;
import troika.model.Tokenizer;
import troika.tensor.UserException;
import troika.train.config.TrainingOptions;

/// What `--model` and `--tokenizer` name.
///
/// @param weights the folder that holds the initial weights, or null for random ones
/// @param tokenizerFiles the folder that holds the tokenizer's files, or null for the byte tokenizer
record ModelSource(
        ModelConfig config,
        Tokenizer tokenizer,
        @Nullable Path weights,
        @Nullable Path tokenizerFiles) {
    static ModelSource of(TrainingOptions options) {
        Path directory = Path.of(options.model());
        boolean folder = Files.isDirectory(directory);
        ModelConfig config = folder ? ModelConfig.read(directory) : preset(options.model());
        Path weights = folder && !options.fromScratch() && hasWeights(directory) ? directory : null;
        if (options.tokenizer().equals("byte")) {
            return new ModelSource(config, new ByteTokenizer(), weights, null);
        }
        Path file = Path.of(options.tokenizer());
        Path files = Files.isDirectory(file) ? file : file.toAbsolutePath().getParent();
        if (files == null || (!Files.isDirectory(file) && !file.endsWith(Tokenizer.FILE))) {
            throw new UserException("The tokenizer " + file
                    + " is not named tokenizer.json: give a file of that name, or" + " \"byte\".");
        }
        return new ModelSource(config, Tokenizer.open(files), weights, files);
    }

    private static ModelConfig preset(String name) {
        return Presets.find(name)
                .orElseThrow(() -> new UserException("The model " + name
                        + " is neither a folder nor a preset: give a folder with config.json, or one of "
                        + String.join(", ", Presets.names()) + "."));
    }

    private static boolean hasWeights(Path directory) {
        return Files.exists(directory.resolve("model.safetensors"))
                || Files.exists(directory.resolve("model.safetensors.index.json"));
    }
}
