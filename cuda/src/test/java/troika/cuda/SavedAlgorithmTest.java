package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;

class SavedAlgorithmTest {
    private static byte[] algorithm() {
        byte[] bytes = new byte[CublasLt.ALGORITHM_BYTES];
        new Random(1).nextBytes(bytes);
        return bytes;
    }

    @Test
    void comesBackAsItWas() {
        SavedAlgorithm decoded = SavedAlgorithm.decode(new SavedAlgorithm(algorithm(), 0.25f).encoded());
        assertThat(decoded).isNotNull();
        assertThat(decoded.bytes()).isEqualTo(algorithm());
        assertThat(decoded.milliseconds()).isEqualTo(0.25f);
    }

    @Test
    void whateverElseTheCacheHoldsIsIgnored() {
        byte[] encoded = new SavedAlgorithm(algorithm(), 0.25f).encoded();
        assertThat(SavedAlgorithm.decode(null)).isNull();
        assertThat(SavedAlgorithm.decode(new byte[0])).isNull();
        assertThat(SavedAlgorithm.decode(algorithm())).isNull();
        assertThat(SavedAlgorithm.decode(new byte[encoded.length])).isNull();
        assertThat(SavedAlgorithm.decode(Arrays.copyOf(encoded, encoded.length - 1))).isNull();
        for (int i = 0; i < encoded.length; i++) {
            byte[] corrupted = encoded.clone();
            corrupted[i] ^= 1;
            assertThat(SavedAlgorithm.decode(corrupted)).as("byte %d", i).isNull();
        }
    }
}
