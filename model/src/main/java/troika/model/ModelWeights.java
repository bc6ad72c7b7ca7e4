package troika.model;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;
import troika.tensor.UserException;

/// The tensors of a directory in one or several safetensors files: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` lists. Other stems than `model` work alike.
public final class ModelWeights implements AutoCloseable {
    private static final String EXTENSION = ".safetensors";
    private static final Pattern FILE_NAME = Pattern.compile("[A-Za-z0-9_][A-Za-z0-9._-]*\\.safetensors");

    private final Path directory;
    private final Map<String, SafetensorsFile> files;
    private final Map<String, SafetensorsFile> byTensor;

    private ModelWeights(Path directory, Map<String, SafetensorsFile> files, Map<String, SafetensorsFile> byTensor) {
        this.directory = directory;
        this.files = files;
        this.byTensor = byTensor;
    }

    /// Opens the weights of a model's directory.
    ///
    /// @throws UserException where there are none, or a file, the index or a shard is missing or
    ///   malformed
    public static ModelWeights open(Path directory) {
        return open(directory, "model");
    }

    /// Opens `<stem>.safetensors` or the shards of `<stem>.safetensors.index.json`.
    ///
    /// @throws UserException as in [#open(Path)]
    public static ModelWeights open(Path directory, String stem) {
        String single = stem + EXTENSION;
        Path index = directory.resolve(indexName(stem));
        if (!Files.exists(directory.resolve(single)) && Files.exists(index)) {
            return sharded(directory, index);
        }
        if (!Files.exists(directory.resolve(single))) {
            String converted = Files.exists(directory.resolve("pytorch_model.bin"))
                            || Files.exists(directory.resolve("pytorch_model.bin.index.json"))
                    ? "; save the model there as safetensors (its pytorch_model.bin is not read)"
                    : "";
            throw new UserException(
                    "There is no " + single + " nor " + indexName(stem) + " in " + directory + converted + ".");
        }
        SafetensorsFile file = SafetensorsFile.open(directory.resolve(single));
        var byTensor = new LinkedHashMap<String, SafetensorsFile>();
        for (String name : file.names()) {
            byTensor.put(name, file);
        }
        return new ModelWeights(directory, Map.of(single, file), byTensor);
    }

    static String indexName(String stem) {
        return stem + EXTENSION + ".index.json";
    }

    private static ModelWeights sharded(Path directory, Path index) {
        JsonFields weightMap = JsonFields.read(index).object("weight_map");
        var files = new HashMap<String, SafetensorsFile>();
        var byTensor = new LinkedHashMap<String, SafetensorsFile>();
        try {
            for (String name : weightMap.keys()) {
                String shard = weightMap.string(name);
                // Plain names only: an index must not lead out of its directory.
                if (!FILE_NAME.matcher(shard).matches()) {
                    throw weightMap.refusal(name, "must name a .safetensors file of the same directory");
                }
                SafetensorsFile file = files.get(shard);
                if (file == null) {
                    Path path = directory.resolve(shard);
                    if (!Files.isRegularFile(path)) {
                        throw weightMap.refusal(name, "names " + shard + ", which is not there");
                    }
                    file = SafetensorsFile.open(path);
                    files.put(shard, file);
                }
                if (!file.names().contains(name)) {
                    throw weightMap.refusal(name, "names " + shard + ", which has no such tensor");
                }
                byTensor.put(name, file);
            }
        } catch (RuntimeException | Error e) {
            files.values().forEach(SafetensorsFile::close);
            throw e;
        }
        return new ModelWeights(directory, files, byTensor);
    }

    /// The names of all tensors.
    public Set<String> names() {
        return byTensor.keySet();
    }

    /// The file that holds a tensor; the directory where there is no such tensor.
    public Path file(String name) {
        SafetensorsFile file = byTensor.get(name);
        return file == null ? directory : file.path();
    }

    public boolean has(String name) {
        return byTensor.containsKey(name);
    }

    /// @throws UserException where there is no such tensor, or its dtype is none of [troika.tensor.DType]
    public SafetensorsTensor tensor(String name) {
        SafetensorsFile file = byTensor.get(name);
        if (file == null) {
            throw new UserException("There is no tensor " + name + " in the weights of " + directory + ".");
        }
        return file.tensor(name);
    }

    @Override
    public void close() {
        files.values().forEach(SafetensorsFile::close);
    }
}
