package troika.train.checkpoint;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Pattern;
import java.util.zip.CRC32C;
import tools.jackson.databind.node.ObjectNode;
import troika.model.JsonFields;
import troika.model.SafetensorsFile;
import troika.tensor.UserException;

/// The sizes and CRC-32C checksums of a directory's files, and of the tensors in them: `manifest.json`,
/// which is written last.
record Manifest(Map<String, Item> files) {
    static final String FILE = "manifest.json";
    private static final Pattern PLAIN = Pattern.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,200}");
    private static final int PIECE = 4 << 20;

    /// @param bytes    the file's size
    /// @param checksum CRC-32C of the whole file
    /// @param tensors  CRC-32C of each tensor's bytes, where the file is a safetensors file
    record Item(long bytes, int checksum, Map<String, Integer> tensors) {}

    /// File names are plain, so that none leads out of the directory.
    static boolean isPlain(String name) {
        return PLAIN.matcher(name).matches();
    }

    byte[] json() {
        ObjectNode json = JsonFields.newObject();
        json.put("version", 1);
        ObjectNode list = json.putObject("files");
        new TreeMap<>(files).forEach((name, item) -> {
            ObjectNode file = list.putObject(name);
            file.put("bytes", item.bytes);
            file.put("crc32c", Integer.toUnsignedLong(item.checksum));
            if (!item.tensors.isEmpty()) {
                ObjectNode tensors = file.putObject("tensors");
                new TreeMap<>(item.tensors).forEach((tensor, sum) -> tensors.put(tensor, Integer.toUnsignedLong(sum)));
            }
        });
        return JsonFields.write(json);
    }

    static Manifest read(Path directory) {
        JsonFields json = JsonFields.read(directory.resolve(FILE));
        json.whole("version", 1, 1);
        JsonFields list = json.object("files");
        var files = new LinkedHashMap<String, Item>();
        for (String name : list.keys()) {
            if (!isPlain(name)) {
                throw list.refusal(name, "is no plain file name");
            }
            JsonFields file = list.object(name);
            var tensors = new LinkedHashMap<String, Integer>();
            if (file.has("tensors")) {
                JsonFields sums = file.object("tensors");
                sums.keys().forEach(tensor -> tensors.put(tensor, checksum(sums, tensor)));
            }
            files.put(name, new Item(file.whole("bytes", 0, Long.MAX_VALUE), checksum(file, "crc32c"), tensors));
        }
        return new Manifest(files);
    }

    private static int checksum(JsonFields json, String key) {
        return (int) json.whole(key, 0, 0xffff_ffffL);
    }

    /// Reads all files and compares.
    ///
    /// @throws UserException where a file is missing, cut short or damaged; names the file, and the
    ///   tensor if it can
    void verify(Path directory) {
        files.forEach((name, item) -> {
            Path path = directory.resolve(name);
            if (!Files.isRegularFile(path, LinkOption.NOFOLLOW_LINKS)) {
                throw new UserException(path + " is missing, though " + FILE + " lists it; use another checkpoint.");
            }
            try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ)) {
                if (channel.size() != item.bytes) {
                    throw new UserException(path + " has " + channel.size() + " bytes, but was written with "
                            + item.bytes + "; use another checkpoint.");
                }
                if (checksum(channel) != item.checksum) {
                    throw new UserException(path + " is damaged" + damagedTensor(path, item)
                            + ": its checksum is not the one it was written with; use another checkpoint.");
                }
            } catch (IOException e) {
                throw new UserException(path + " cannot be read: " + e.getMessage() + ".", e);
            }
        });
    }

    private static String damagedTensor(Path path, Item item) {
        if (item.tensors.isEmpty()) {
            return "";
        }
        try (SafetensorsFile file = SafetensorsFile.open(path)) {
            for (String tensor : file.names()) {
                Integer expected = item.tensors.get(tensor);
                var checksum = new CRC32C();
                var data = file.bytes(tensor);
                for (long at = 0; at < data.byteSize(); at += PIECE) {
                    checksum.update(data.asSlice(at, Math.min(PIECE, data.byteSize() - at))
                            .asByteBuffer());
                }
                if (expected != null && expected != (int) checksum.getValue()) {
                    return " in tensor " + tensor;
                }
            }
        } catch (UserException e) {
            // The header is what is damaged.
        }
        return " in its header";
    }

    private static int checksum(FileChannel channel) throws IOException {
        var checksum = new CRC32C();
        ByteBuffer buffer = ByteBuffer.allocateDirect(PIECE);
        while (channel.read(buffer) >= 0) {
            checksum.update(buffer.flip());
            buffer.clear();
        }
        return (int) checksum.getValue();
    }
}
