package troika.ffi;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class LibrarySearchTest {
    private static final String NEW = "libthing.so.13";
    private static final String OLD = "libthing.so.12";

    @TempDir
    private Path temporary = Path.of("");

    private final Map<String, String> environment = new HashMap<>();

    private Path root() {
        return temporary.resolve("root");
    }

    private Path file(String path) throws IOException {
        Path file = temporary.resolve(path);
        Files.createDirectories(file.resolveSibling(""));
        return Files.writeString(file, "no library");
    }

    private LibrarySearch search(@Nullable Path nativeFolder, String... cacheLines) {
        return new LibrarySearch(
                environment, nativeFolder == null ? null : nativeFolder.toString(), root(), () -> List.of(cacheLines));
    }

    @Test
    void placesComeInTheirOrderAndTheFirstNameBeforeTheSecond() throws IOException {
        Path usr = file("root/usr/lib64/" + NEW);
        Path wsl = file("root/usr/lib/wsl/lib/" + NEW);
        Path chosen = file("root/usr/local/cuda/lib64/" + NEW);
        Path cuda12 = file("root/usr/local/cuda-12.8/lib64/" + NEW);
        Path cuda129 = file("root/usr/local/cuda-12.10/targets/x86_64-linux/lib/" + NEW);
        Path cached = file("cached/" + NEW);
        Path second = file("second/" + NEW);
        Path first = file("first/" + NEW);
        Path own = file("own/" + NEW);
        Path old = file("own/" + OLD);
        environment.put("LD_LIBRARY_PATH", first.getParent() + "::" + second.getParent());
        LibrarySearch search = search(
                own.getParent(),
                "\t" + NEW + " (libc6,x86-64) => " + cached,
                "\t" + NEW + ".1 (libc6,x86-64) => " + old,
                "123 libs found in cache");
        assertThat(search.find(List.of(NEW, OLD)))
                .containsExactly(own, first, second, cached, chosen, cuda129, cuda12, usr, wsl, old);
        assertThat(search.find(List.of(OLD))).containsExactly(old);
        assertThat(search.find(List.of("libother.so"))).isEmpty();
    }

    @Test
    void oneFileUnderTwoPathsIsOne() throws IOException {
        Path real = file("root/usr/local/cuda-13.0/lib64/" + NEW);
        Files.createSymbolicLink(root().resolve("usr/local/cuda"), root().resolve("usr/local/cuda-13.0"));
        Path link = temporary.resolve(OLD);
        Files.createSymbolicLink(link, real);
        environment.put("LD_LIBRARY_PATH", temporary.toString());
        assertThat(search(null).find(List.of(OLD, NEW))).containsExactly(link);
        assertThat(search(null).find(List.of(NEW)))
                .containsExactly(root().resolve("usr/local/cuda/lib64").resolve(NEW));
    }

    @Test
    void packagesOfAVirtualEnvironmentLieBesideTheLinkToItsPython() throws IOException {
        Path python = file("opt/python/bin/python3.12");
        assertThat(python.toFile().setExecutable(true)).isTrue();
        Path link = temporary.resolve("venv/bin/python3");
        Files.createDirectories(temporary.resolve("venv/bin"));
        Files.createSymbolicLink(link, python);
        Path ours = file("venv/lib/python3.12/site-packages/nvidia/cu13/lib/" + NEW);
        Path base = file("opt/python/lib/python3.12/site-packages/nvidia/cu13/lib/" + NEW);
        Path elsewhere = file("other/lib/python3.11/site-packages/nvidia/thing/lib/" + OLD);
        Path conda = file("conda/lib/python3.10/site-packages/nvidia/thing/lib/" + OLD);
        Path user = file("home/.local/lib/python3.12/site-packages/nvidia/thing/lib/" + OLD);
        Path system = file("root/usr/lib/python3/dist-packages/nvidia/thing/lib/" + OLD);
        Path local = file("root/usr/local/lib/python3.12/dist-packages/nvidia/thing/lib/" + OLD);
        environment.put("PATH", temporary.resolve("empty") + ":" + link.getParent());
        environment.put("VIRTUAL_ENV", temporary.resolve("other").toString());
        environment.put("CONDA_PREFIX", temporary.resolve("conda").toString());
        environment.put("HOME", temporary.resolve("home").toString());
        LibrarySearch search = search(null);
        assertThat(search.find(List.of(NEW, OLD))).containsExactly(ours, base, elsewhere, conda, user, system, local);
        assertThat(search.places()).contains(temporary.resolve("venv/lib/python3.12/site-packages/nvidia") + "/*/lib");
    }

    @Test
    void whatIsMissingIsSaidInOneSentence() throws IOException {
        Path cuda = file("root/usr/local/cuda-13.0/lib64/libelse.so");
        environment.put("LD_LIBRARY_PATH", "/nowhere");
        assertThatThrownBy(() -> search(null).load("Thing", "install it", List.of(NEW, OLD)))
                .isInstanceOf(UnsatisfiedLinkError.class)
                .hasMessage(
                        "There is no Thing (libthing.so.13 or libthing.so.12) on this machine: install it; searched "
                                + "were the folder of -Dtroika.native.dir (not set), LD_LIBRARY_PATH (/nowhere), ldconfig's "
                                + "cache, " + cuda.getParent() + ".");
    }

    @Test
    void whatCannotBeLoadedIsPassedOver() throws IOException {
        Path broken = file("broken/libc.so.6");
        environment.put("LD_LIBRARY_PATH", String.valueOf(broken.getParent()));
        assertThatThrownBy(() -> search(null).load("C", "install it", List.of("libc.so.6")))
                .isInstanceOf(UnsatisfiedLinkError.class)
                .hasMessage("C cannot be loaded from " + broken + ": install it.")
                .hasCauseInstanceOf(UnsatisfiedLinkError.class);
        Path real = LibrarySearch.ofSystem().find(List.of("libc.so.6")).getFirst();
        LibrarySearch.Found found =
                search(null, "\tlibc.so.6 (libc6,x86-64) => " + real).load("C", "install it", List.of("libc.so.6"));
        assertThat(found.file()).isEqualTo(real);
        assertThat(found.library().symbols().find("malloc")).isPresent();
        assertThat(found.library().name()).isEqualTo("libc.so.6");
    }
}
