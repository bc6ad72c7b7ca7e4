package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class DiskCacheTest {
    @TempDir
    private Path folder = Path.of("");

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private List<Path> files() throws IOException {
        try (var files = Files.list(folder)) {
            return new ArrayList<>(files.toList());
        }
    }

    @Test
    void valuesAreKeptByKey() throws IOException {
        DiskCache cache = new DiskCache(folder);
        assertThat(cache.get("a")).isNull();
        cache.put("a", bytes("one"));
        cache.put("b", new byte[0]);
        cache.put("a", bytes("two"));
        DiskCache later = new DiskCache(folder);
        assertThat(later.get("a")).isEqualTo(bytes("two"));
        assertThat(later.get("b")).isEmpty();
        assertThat(later.get("c")).isNull();
        assertThat(files()).hasSize(2);
    }

    @Test
    void everyDamagedByteAndLengthIsAMiss() throws IOException {
        DiskCache cache = new DiskCache(folder);
        cache.put("a", bytes("value"));
        Path file = files().getFirst();
        byte[] whole = Files.readAllBytes(file);
        for (int i = 0; i < whole.length; i++) {
            byte[] damaged = whole.clone();
            damaged[i] ^= 4;
            Files.write(file, damaged);
            assertThat(cache.get("a")).as("byte %d", i).isNull();
            Files.write(file, Arrays.copyOf(whole, i));
            assertThat(cache.get("a")).as("length %d", i).isNull();
        }
        Files.write(file, whole);
        assertThat(cache.get("a")).isEqualTo(bytes("value"));
    }

    @Test
    void aFileOfAnotherKeyIsAMiss() throws IOException {
        DiskCache cache = new DiskCache(folder);
        cache.put("a", bytes("value"));
        Path a = files().getFirst();
        cache.put("b", bytes("other"));
        List<Path> both = files();
        both.remove(a);
        Files.copy(a, both.getFirst(), StandardCopyOption.REPLACE_EXISTING);
        assertThat(cache.get("a")).isEqualTo(bytes("value"));
        assertThat(cache.get("b")).isNull();
    }

    @Test
    void aFolderThatCannotBeWrittenKeepsNothing() throws IOException {
        Path occupied = Files.writeString(folder.resolve("file"), "not a folder");
        for (DiskCache cache : List.of(new DiskCache(occupied), new DiskCache(null))) {
            cache.put("a", bytes("value"));
            assertThat(cache.get("a")).isNull();
        }
        assertThat(Files.readString(occupied)).isEqualTo("not a folder");
    }

    @Test
    void theUsersFolder() {
        assertThat(DiskCache.userFolder(Map.of("XDG_CACHE_HOME", "/x"), "/home/u"))
                .isEqualTo(Path.of("/x/troika/cuda"));
        assertThat(DiskCache.userFolder(Map.of(), "/home/u")).isEqualTo(Path.of("/home/u/.cache/troika/cuda"));
        assertThat(DiskCache.userFolder(Map.of(), "")).isNull();
    }
}
