package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class BytesTest {
    @Test
    void unitsArePowersOfTwo() {
        assertThat(Bytes.gib(3L << 29, 2)).isEqualTo("1.50 GiB");
        assertThat(Bytes.gib(1L << 45, 1)).isEqualTo("32768.0 GiB");
        assertThat(Bytes.mib(3L << 20, 1)).isEqualTo("3.0 MiB");
        assertThat(Bytes.mib(5 << 19, 0)).isEqualTo("3 MiB");
    }
}
