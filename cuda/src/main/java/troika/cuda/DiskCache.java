package troika.cuda;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// Bytes by key, kept between runs as files of one folder: compiled kernels, chosen algorithms. What cannot
/// be read, is damaged or cannot be written is not there: the cache saves time and nothing depends on it.
final class DiskCache {
    private static final int DIGEST_BYTES = 32;

    private final @Nullable Path folder;

    /// @param folder null: nothing is kept
    DiskCache(@Nullable Path folder) {
        this.folder = folder;
    }

    /// The user's: `$XDG_CACHE_HOME/troika/cuda`, else `~/.cache/troika/cuda`.
    static DiskCache ofUser() {
        return new DiskCache(userFolder(System.getenv(), System.getProperty("user.home", "")));
    }

    static @Nullable Path userFolder(Map<String, String> environment, String home) {
        String cache = environment.getOrDefault("XDG_CACHE_HOME", "");
        if (cache.isEmpty() && home.isEmpty()) {
            return null;
        }
        Path base = cache.isEmpty() ? Path.of(home, ".cache") : Path.of(cache);
        return base.resolve("troika").resolve("cuda");
    }

    /// What was put, or null.
    byte @Nullable [] get(String key) {
        if (folder == null) {
            return null;
        }
        byte[] keyDigest = digest(key.getBytes(StandardCharsets.UTF_8));
        try {
            byte[] file = Files.readAllBytes(file(folder, keyDigest));
            if (file.length < DIGEST_BYTES) {
                return null;
            }
            byte[] value = Arrays.copyOfRange(file, DIGEST_BYTES, file.length);
            return Arrays.equals(checksum(keyDigest, value), Arrays.copyOf(file, DIGEST_BYTES)) ? value : null;
        } catch (IOException e) {
            return null;
        }
    }

    /// Keeps the value; processes that do so together leave one whole value.
    void put(String key, byte[] value) {
        if (folder == null) {
            return;
        }
        byte[] keyDigest = digest(key.getBytes(StandardCharsets.UTF_8));
        try {
            Files.createDirectories(folder);
            Path partial = Files.createTempFile(folder, "put", ".partial");
            try {
                byte[] checksum = checksum(keyDigest, value);
                Files.write(
                        partial,
                        ByteBuffer.allocate(DIGEST_BYTES + value.length)
                                .put(checksum)
                                .put(value)
                                .array());
                Files.move(
                        partial,
                        file(folder, keyDigest),
                        StandardCopyOption.ATOMIC_MOVE,
                        StandardCopyOption.REPLACE_EXISTING);
            } finally {
                Files.deleteIfExists(partial);
            }
        } catch (IOException e) {
            // Not kept; the next run works it out again.
        }
    }

    private static Path file(Path folder, byte[] keyDigest) {
        return folder.resolve(HexFormat.of().formatHex(keyDigest));
    }

    /// Of key and value: a file under another key's name is damaged too.
    private static byte[] checksum(byte[] keyDigest, byte[] value) {
        MessageDigest sha = sha256();
        sha.update(keyDigest);
        return sha.digest(value);
    }

    private static byte[] digest(byte[] bytes) {
        return sha256().digest(bytes);
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java has SHA-256", e);
        }
    }
}
