package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SavedAlgorithmTest {
    private static byte[] algorithm() {
        byte[] bytes = new byte[CublasLt.ALGORITHM_BYTES];
        new Random(1).nextBytes(bytes);
        return bytes;
    }

    @Test
    void comesBackAsItWas() {
        SavedAlgorithm decoded =
                Objects.requireNonNull(SavedAlgorithm.decode(new SavedAlgorithm(algorithm(), 0.25f).encoded()));
        assertThat(decoded.bytes()).isEqualTo(algorithm());
        assertThat(decoded.milliseconds()).isEqualTo(0.25f);
    }

    @Test
    void whateverElseTheCacheHoldsIsIgnored() {
        byte[] encoded = new SavedAlgorithm(algorithm(), 0.25f).encoded();
        assertThat(SavedAlgorithm.decode(null)).isNull();
        assertThat(SavedAlgorithm.decode(new byte[0])).isNull();
        assertThat(SavedAlgorithm.decode(algorithm())).isNull();
        assertThat(SavedAlgorithm.decode(Arrays.copyOf(encoded, encoded.length - 1)))
                .isNull();
        assertThat(SavedAlgorithm.decode(Arrays.copyOf(encoded, encoded.length + 1)))
                .isNull();
    }

    @Test
    void aDamagedFileOfTheCacheIsNoAlgorithm(@TempDir Path folder) throws IOException {
        DiskCache cache = new DiskCache(folder);
        cache.put("product", new SavedAlgorithm(algorithm(), 0.25f).encoded());
        assertThat(SavedAlgorithm.decode(cache.get("product"))).isNotNull();
        try (var files = Files.list(folder)) {
            Path file = files.findFirst().orElseThrow();
            byte[] bytes = Files.readAllBytes(file);
            bytes[bytes.length - 10] ^= 1;
            Files.write(file, bytes);
        }
        assertThat(SavedAlgorithm.decode(cache.get("product"))).isNull();
    }
}
