package troika.train.checkpoint;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.RandomAccessFile;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.model.ModelWeights;
import troika.tensor.UserException;

class CheckpointsTest {
    @TempDir
    private Path output;

    private void save(long step) {
        EndlessSaver.save(output, step, 1000, new Random(step));
    }

    private static List<String> names(Path directory) throws IOException {
        try (var list = Files.list(directory)) {
            return list.map(p -> p.getFileName().toString()).sorted().toList();
        }
    }

    @Test
    void savedIsWholeAndReadable() throws IOException {
        save(7);
        Path directory = Checkpoints.latest(output).orElseThrow().directory();
        assertThat(directory).isEqualTo(Checkpoints.directory(output, 7));
        assertThat(names(directory))
                .containsExactly(
                        "manifest.json",
                        "model-00001-of-00002.safetensors",
                        "model-00002-of-00002.safetensors",
                        "model.safetensors.index.json",
                        "optimizer.safetensors",
                        "trainer_state.json");
        Checkpoints.verify(directory);
        try (var weights = ModelWeights.open(directory);
                var optimizer = ModelWeights.open(directory, "optimizer")) {
            assertThat(weights.tensor("a").data().mismatch(optimizer.tensor("a").data()))
                    .isEqualTo(-1);
            assertThat(weights.tensor("b").data().mismatch(optimizer.tensor("a").data()))
                    .isEqualTo(-1);
        }
        assertThat(names(output.resolve("checkpoints"))).containsExactly("step-7");
    }

    @Test
    void listSortsByNumberAndIgnoresOtherNames() throws IOException {
        assertThat(Checkpoints.latest(output)).isEmpty();
        for (long step : new long[] {100, 9, 20}) {
            save(step);
        }
        for (String other : new String[] {
            "step-",
            "step-01",
            "step-x",
            "Step-5",
            ".step-300.partial",
            ".step-200.deleted",
            "step-99999999999999999999"
        }) {
            Files.createDirectories(output.resolve("checkpoints").resolve(other));
        }
        Files.createFile(output.resolve("checkpoints/step-400"));
        assertThat(Checkpoints.list(output))
                .extracting(Checkpoints.Checkpoint::step)
                .containsExactly(9L, 20L, 100L);
        Checkpoints.prune(output, 2);
        assertThat(Checkpoints.list(output))
                .extracting(Checkpoints.Checkpoint::step)
                .containsExactly(20L, 100L);
        Checkpoints.cleanUp(output);
        assertThat(names(output.resolve("checkpoints")))
                .contains("step-20", "step-x")
                .noneMatch(name -> name.startsWith("."));
    }

    @Test
    void replacesACheckpointOfTheSameStep() throws IOException {
        save(3);
        byte[] before = Files.readAllBytes(Checkpoints.directory(output, 3).resolve("optimizer.safetensors"));
        EndlessSaver.save(output, 3, 1000, new Random(99));
        assertThat(Files.readAllBytes(Checkpoints.directory(output, 3).resolve("optimizer.safetensors")))
                .isNotEqualTo(before);
        assertThat(names(output.resolve("checkpoints"))).containsExactly("step-3");
    }

    @Test
    void uncommittedLeavesNothing() throws IOException {
        save(1);
        try (var writer = CheckpointWriter.checkpoint(output, 1)) {
            writer.file("config.json", new byte[3]);
        }
        try (var model = CheckpointWriter.model(output)) {
            model.file("config.json", new byte[3]);
        }
        assertThat(names(output)).containsExactly("checkpoints");
        assertThat(names(output.resolve("checkpoints"))).containsExactly("step-1");
        Checkpoints.verify(Checkpoints.directory(output, 1));
    }

    @Test
    void modelIsACheckpointElsewhere() {
        try (var model = CheckpointWriter.model(output)) {
            model.file("config.json", new byte[3]);
            model.commit();
        }
        Checkpoints.verify(output.resolve("model"));
        assertThat(Checkpoints.list(output)).isEmpty();
    }

    /// The states that a kill between the two renames of a replacement leaves.
    @Test
    void interruptedReplacement() throws IOException {
        save(5);
        Path target = Checkpoints.directory(output, 5);
        Path old = Checkpoints.old(target);
        Files.move(target, old);
        assertThat(Checkpoints.latest(output).orElseThrow()).isEqualTo(new Checkpoints.Checkpoint(5, old));
        Checkpoints.verify(old);
        Checkpoints.cleanUp(output);
        assertThat(Checkpoints.latest(output).orElseThrow().directory()).isEqualTo(target);

        // New and old both there: the new one counts, also while it is pruned away with the old one.
        Files.createDirectory(old);
        assertThat(Checkpoints.latest(output).orElseThrow().directory()).isEqualTo(target);
        save(6);
        Checkpoints.prune(output, 1);
        assertThat(names(output.resolve("checkpoints"))).containsExactly("step-6");

        // A writer that begins on the old one alone brings it back before it does anything.
        Files.move(Checkpoints.directory(output, 6), Checkpoints.old(Checkpoints.directory(output, 6)));
        CheckpointWriter.checkpoint(output, 6).close();
        Checkpoints.verify(Checkpoints.directory(output, 6));
    }

    @Test
    void damageIsFoundAndNamed() throws IOException {
        save(1);
        Path directory = Checkpoints.directory(output, 1);
        Path file = directory.resolve("optimizer.safetensors");
        byte[] whole = Files.readAllBytes(file);
        int header = whole.length - 8000;
        assertDamage(file, whole, header, "tensor a");
        assertDamage(file, whole, whole.length - 1, "tensor b");
        assertDamage(file, whole, 9, "in its header");
        assertDamage(file, whole, 0, "in its header");

        Files.write(file, Arrays.copyOf(whole, whole.length - 1));
        assertRefused(file.toString(), "written with " + whole.length);
        Files.delete(file);
        assertRefused(file.toString(), "missing");
        Files.write(file, whole);
        Checkpoints.verify(directory);

        Path manifest = directory.resolve("manifest.json");
        String json = Files.readString(manifest);
        for (String bad : new String[] {
            "",
            "{}",
            json.replace("\"optimizer", "\"../optimizer"),
            json.replace("\"version\" : 1", "\"version\" : 2"),
            json.replace("\"bytes\" : ", "\"bytes\" : -")
        }) {
            Files.writeString(manifest, bad);
            assertRefused(manifest.toString(), "");
        }
        Files.delete(manifest);
        assertRefused(manifest.toString(), "does not exist");
    }

    private void assertDamage(Path file, byte[] whole, int at, String named) throws IOException {
        byte[] damaged = whole.clone();
        damaged[at] ^= 4;
        Files.write(file, damaged);
        assertRefused(file.toString(), named);
        Files.write(file, whole);
    }

    private void assertRefused(String... named) {
        assertThatThrownBy(() -> Checkpoints.verify(Checkpoints.directory(output, 1)))
                .isInstanceOf(UserException.class)
                .hasMessageContainingAll(named)
                .hasMessageEndingWith(".");
    }

    @Test
    void everyFlippedByteIsFound() throws IOException {
        save(1);
        Path directory = Checkpoints.directory(output, 1);
        var random = new Random(5);
        for (String name : names(directory)) {
            if (name.equals("manifest.json")) {
                continue;
            }
            for (int i = 0; i < 30; i++) {
                try (var file = new RandomAccessFile(directory.resolve(name).toFile(), "rw")) {
                    long at = random.nextLong(file.length());
                    file.seek(at);
                    int value = file.read();
                    file.seek(at);
                    file.write(value ^ (1 << random.nextInt(8)));
                    assertRefused(name);
                    file.seek(at);
                    file.write(value);
                }
            }
        }
        Checkpoints.verify(directory);
    }

    @Test
    void fullDiskIsSaidSo() {
        assertThat(Disk.failure(output, new IOException("No space left on device")))
                .hasMessageContaining("disk is full")
                .hasMessageContaining(output.toString());
        assertThat(Disk.failure(output, new IOException("Input/output error")))
                .hasMessageContaining("Input/output error");
    }

    /// A limit on the size of files stands in for a full disk: the write fails in the middle of a tensor.
    @Test
    void failedWriteLeavesTheOldCheckpoints() throws Exception {
        var child = start("ulimit -f 400; exec \"$@\"", 30_000);
        List<String> lines;
        try (BufferedReader reader = child.inputReader(StandardCharsets.UTF_8)) {
            lines = reader.lines().toList();
        }
        assertThat(child.waitFor()).isZero();
        assertThat(lines).hasSizeGreaterThan(1).first().isEqualTo("saved");
        assertThat(lines.getLast()).contains("could not be written: File too large");
        assertAllReadable();
        assertThat(names(output.resolve("checkpoints"))).noneMatch(name -> name.startsWith("."));
    }

    @Test
    void killedWriters() throws Exception {
        kill(4);
    }

    @Test
    @Tag("stress")
    void manyKilledWriters() throws Exception {
        kill(100);
    }

    private void kill(int times) throws Exception {
        var random = new Random();
        for (int i = 0; i < times; i++) {
            Process child = start("exec \"$@\"", 0);
            try (var reader =
                    new BufferedReader(new InputStreamReader(child.getInputStream(), StandardCharsets.UTF_8))) {
                assertThat(reader.readLine()).isEqualTo("saved");
                Thread.sleep(random.nextInt(300));
            } finally {
                child.destroyForcibly().waitFor();
            }
            assertAllReadable();
        }
        Checkpoints.cleanUp(output);
        assertThat(names(output.resolve("checkpoints"))).isNotEmpty().allMatch(name -> name.matches("step-[0-9]"));
        assertAllReadable();
    }

    private void assertAllReadable() {
        List<Checkpoints.Checkpoint> all = Checkpoints.list(output);
        assertThat(all).isNotEmpty();
        for (var checkpoint : all) {
            Checkpoints.verify(checkpoint.directory());
            try (var weights = ModelWeights.open(checkpoint.directory())) {
                assertThat(weights.names()).containsExactlyInAnyOrder("a", "b");
            }
        }
    }

    private Process start(String shell, int growth) throws IOException {
        var command = new ArrayList<>(List.of("bash", "-c", shell, "bash"));
        command.addAll(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:-UsePerfData",
                "-Xmx64m",
                "-cp",
                System.getProperty("java.class.path"),
                EndlessSaver.class.getName(),
                output.toString(),
                String.valueOf(growth)));
        return new ProcessBuilder(command).redirectErrorStream(true).start();
    }
}
