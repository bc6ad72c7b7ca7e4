package troika.ffi;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.Test;

class NativeMemoryTest {
    @Test
    void memoryIsZeroedAlignedAndCounted() {
        for (long bytes : new long[] {1, 4096, 5000, 3L << 20}) {
            long allocations = NativeMemory.allocations();
            long allocated = NativeMemory.allocatedBytes();
            long address = NativeMemory.allocate(bytes);
            assertThat(address % 4096).isZero();
            for (long i = 0; i < bytes; i++) {
                assertThat(NativeMemory.ALL.get(ValueLayout.JAVA_BYTE, address + i))
                        .isZero();
                NativeMemory.ALL.set(ValueLayout.JAVA_BYTE, address + i, (byte) 1);
            }
            assertThat(NativeMemory.allocations() - allocations).isEqualTo(1);
            assertThat(NativeMemory.allocatedBytes() - allocated).isEqualTo(bytes);
            NativeMemory.free(address);
        }
    }

    @Test
    void aMissingLibraryIsNamedWithThePlacesSearched() {
        assertThatThrownBy(() -> NativeLibrary.load("no/such/folder", "libnone.so"))
                .isInstanceOf(UnsatisfiedLinkError.class)
                .hasMessageContaining("libnone.so")
                .hasMessageContaining("no/such/folder/libnone.so");
    }

    @Test
    void aFailedStatusNamesTheFunction() {
        Native.check("f", 0);
        assertThatThrownBy(() -> Native.check("cuFoo", 700))
                .isInstanceOf(NativeException.class)
                .hasMessage("cuFoo returned 700");
    }
}
