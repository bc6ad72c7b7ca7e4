package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class CudaLibrariesTest {
    @Test
    void versionsAreInNamesOrBesidePythonsPackages(@TempDir Path folder) throws IOException {
        Path system = Files.createFile(folder.resolve("libcudnn.so.9.14.0"));
        Path link = Files.createSymbolicLink(folder.resolve("libcudnn.so.9"), system);
        Path lib = Files.createDirectories(folder.resolve("site-packages/nvidia/cudnn/lib"));
        Path python = Files.createFile(lib.resolve("libcudnn.so.9"));
        assertThat(CudaLibraries.version(link)).containsExactly(9, 14, 0);
        assertThat(CudaLibraries.version(python)).containsExactly(9);
        Files.createDirectories(folder.resolve("site-packages/nvidia_cudnn_cu13-9.19.0.56.dist-info"));
        assertThat(CudaLibraries.version(python)).containsExactly(9, 19, 0, 56);
    }
}
