package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.tensor.UserException;
import troika.train.checkpoint.Checkpoints;

/// Runs that end in the middle: killed, or because the disk is full.
class KillTest {
    @TempDir
    Path folder = Path.of("");

    private Path output(String name) {
        return folder.resolve(name);
    }

    @Test
    void killedAndResumedIsTheSame() throws Exception {
        Runs.train(Child.job(folder, output("straight"), 6));
        try (Child child = Child.start(folder, output("killed"), 6, "")) {
            child.await("saved step-3");
        }
        Runs.train(Child.job(folder, output("killed"), 6).resume("latest"));
        assertThat(Runs.metrics(output("killed"))).isEqualTo(Runs.metrics(output("straight")));
        assertThat(Runs.files(output("killed/model"))).isEqualTo(Runs.files(output("straight/model")));
    }

    @Test
    void aFewKilledRuns() throws Exception {
        kill(3);
    }

    @Test
    @Tag("stress")
    void manyKilledRuns() throws Exception {
        kill(100);
    }

    /// One run, killed again and again while it saves after every step, each time resumed.
    private void kill(int times) throws Exception {
        Random random = new Random(times);
        long before = 0;
        for (int i = 0; i < times; i++) {
            try (Child child = Child.start(folder, output("run"), 1_000_000, before == 0 ? "" : "latest")) {
                child.await("saved");
                Thread.sleep(random.nextLong(60));
            }
            Checkpoints.Checkpoint latest = Checkpoints.latest(output("run")).orElseThrow();
            assertThat(latest.step()).isGreaterThan(before);
            for (Checkpoints.Checkpoint checkpoint : Checkpoints.list(output("run"))) {
                Checkpoints.verify(checkpoint.directory());
            }
            before = latest.step();
        }
        Runs.train(Child.job(folder, output("run"), before + 1).resume("latest"));
        assertThat(Runs.losses(output("run"))).hasSize((int) before + 1);
        Checkpoints.verify(output("run/model"));
    }

    /// A disk of four megabytes, which another file fills once there is a checkpoint.
    @Test
    void aFullDiskLeavesTheOldCheckpoint() throws Exception {
        Path disk = Files.createDirectories(output("disk"));
        assumeTrue(mounts(disk), "not allowed to mount a small disk");
        try {
            Path run = disk.resolve("run");
            Runs.train(Child.job(folder, run, 2));
            fill(disk.resolve("filler"), 100_000);
            assertThatThrownBy(() -> Runs.train(Child.job(folder, run, 9).resume("latest")))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("disk is full")
                    .hasMessageContaining("step-3")
                    .hasMessageNotContaining("\n");
            assertThat(Checkpoints.list(run))
                    .extracting(Checkpoints.Checkpoint::step)
                    .containsExactly(1L, 2L);
            Checkpoints.verify(Checkpoints.directory(run, 2));
            // Not one byte: metrics cannot be written either.
            fill(disk.resolve("filler"), 0);
            assertThatThrownBy(() -> Runs.train(Child.job(folder, run, 9).resume("latest")))
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("No space left")
                    .hasMessageNotContaining("\n");
            Files.delete(disk.resolve("filler"));
            Runs.train(Child.job(folder, run, 4).resume("latest"));
            assertThat(Runs.losses(run)).hasSize(4);
        } finally {
            command("umount", disk.toString());
        }
    }

    private static boolean mounts(Path disk) throws Exception {
        return command("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk.toString());
    }

    private static boolean command(String... words) throws Exception {
        try {
            return new ProcessBuilder(words).redirectErrorStream(true).start().waitFor() == 0;
        } catch (IOException missing) {
            return false;
        }
    }

    /// Fills the disk up to a rest of bytes.
    private static void fill(Path file, long rest) throws IOException {
        byte[] page = new byte[4096];
        try (var out = Files.newOutputStream(file, StandardOpenOption.CREATE, StandardOpenOption.APPEND)) {
            while (file.toFile().getUsableSpace() > rest) {
                out.write(page);
            }
        } catch (IOException full) {
            assertThat(rest).isZero();
        }
    }

    @Test
    @Tag("stress")
    void residentSizeIsFlat() throws Exception {
        // Saves are left out: what is flat is the step.
        try (Child child = Child.start(folder, output("flat"), 1001, Child.UNSAVED)) {
            long early = resident(child.await("step 100 "));
            long late = resident(child.await("step 1000 "));
            System.out.println("resident size at step 100: " + early + " KiB, at step 1000: " + late + " KiB");
            assertThat(late - early).isLessThan(16 << 10);
        }
    }

    private static long resident(String line) {
        return Long.parseLong(line.substring(line.lastIndexOf(' ') + 1));
    }
}
