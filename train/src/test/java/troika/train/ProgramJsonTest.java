package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;
import tools.jackson.databind.json.JsonMapper;
import troika.plan.ProgramJson;
import troika.plan.StepProgram;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.UserException;

class ProgramJsonTest {
    private static final JsonMapper MAPPER = JsonMapper.builder().build();

    @TempDir
    private Path folder;

    static List<TinyRun.Job> jobs() {
        TinyRun.Job job = TinyRun.job();
        return List.of(
                job,
                job.of(DType.BF16).ranks(2).zero(1).recomputing(),
                job.ranks(3).zero(2).accumulate(2));
    }

    @ParameterizedTest
    @MethodSource("jobs")
    void whatIsWrittenIsRead(TinyRun.Job job) throws IOException {
        List<StepProgram> programs = programs(job.plan());
        assertThat(ProgramJson.read(write(programs))).isEqualTo(programs);
    }

    @ParameterizedTest
    @MethodSource("jobs")
    void anEngineTrainsTheSameFromTheFile(TinyRun.Job job) {
        TinyRun.Outcome expected = TinyRun.run(job, 4);
        TinyRun.Outcome actual = TinyRun.run(job, 4, plan -> {
            try {
                List<StepProgram> read = ProgramJson.read(write(programs(plan)));
                return new TrainingPlan(
                        read.get(0), read.get(1), plan.layout(), plan.groups(), plan.memory(), plan.microbatches());
            } catch (IOException e) {
                throw new IllegalStateException(e);
            }
        });
        assertThat(actual.losses()).isEqualTo(expected.losses());
        assertThat(actual.norms()).isEqualTo(expected.norms());
        assertThat(actual.weights().toArray(float[][]::new))
                .isDeepEqualTo(expected.weights().toArray(float[][]::new));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "[]", "3", "{", "{\"train\": 5}", "{\"train\": {}}", "{\"train\": null}", "not JSON"})
    void whatIsNoProgramIsRefused(String text) throws IOException {
        Path file = folder.resolve("program.json");
        Files.writeString(file, text);
        assertThatThrownBy(() -> ProgramJson.read(file))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("program.json");
    }

    @Test
    void damageIsRefusedWhereverItIs() throws IOException {
        Path file = write(programs(TinyRun.job().ranks(2).zero(1).plan()));
        String whole = Files.readString(file);
        Random random = new Random(1);
        for (int i = 0; i < 40; i++) {
            Map<?, ?> tree = MAPPER.readValue(whole, Map.class);
            String what = damage(Objects.requireNonNull(tree.get("train")), random);
            Files.writeString(file, MAPPER.writeValueAsString(tree));
            assertThat(catchThrowable(() -> ProgramJson.read(file)))
                    .as(what)
                    .isInstanceOf(UserException.class)
                    .hasMessageContaining("program.json");
        }
        for (int i = 0; i < 10; i++) {
            Files.writeString(file, whole.substring(0, random.nextInt(whole.length())));
            assertThatThrownBy(() -> ProgramJson.read(file)).isInstanceOf(UserException.class);
        }
    }

    /// Walks down to a random field of a record and takes it away, or makes it something that it cannot be.
    private static String damage(Object tree, Random random) {
        Object at = tree;
        String path = "";
        while (true) {
            if (at instanceof List<?> list) {
                int i = random.nextInt(list.size());
                path += "/" + i;
                at = list.get(i);
                continue;
            }
            @SuppressWarnings("unchecked")
            Map<String, Object> fields = Objects.requireNonNull((Map<String, Object>) at);
            String key = new ArrayList<>(fields.keySet()).get(random.nextInt(fields.size()));
            path += "/" + key;
            Object value = fields.get(key);
            boolean goesDown = value instanceof Map
                    || (value instanceof List<?> list && !list.isEmpty() && list.getFirst() instanceof Map);
            if (goesDown && random.nextInt(8) > 0) {
                at = value;
                continue;
            }
            if (random.nextBoolean()) {
                fields.remove(key);
                return path + " left out";
            }
            Object wrong = wrong(Objects.requireNonNull(value), random);
            fields.put(key, wrong);
            return path + " = " + wrong;
        }
    }

    private static Object wrong(Object value, Random random) {
        return switch (value) {
            case String _ -> random.nextInt(100);
            case Boolean _ -> "perhaps";
            case Number _ -> random.nextBoolean() ? "many" : List.of(1);
            case List<?> _ -> List.of(Map.of());
            default -> List.of();
        };
    }

    @Test
    void whatPointsNowhereIsRefused() throws IOException {
        Path file = write(programs(TinyRun.job().plan()));
        String whole = Files.readString(file);
        for (String[] change : List.of(
                new String[] {"\"offset\":[0-9]+", "\"offset\":99999999999"},
                new String[] {"\"offset\":[0-9]+", "\"offset\":-4"},
                new String[] {"\"inputs\":\\[[0-9]+", "\"inputs\":[99999"},
                new String[] {"\"outputs\":\\[[0-9]+", "\"outputs\":[-1"},
                new String[] {"\"after\":\\[[0-9]+", "\"after\":[9999"},
                new String[] {"\"after\":\\[[0-9]+", "\"after\":[99999999999"},
                new String[] {"\"afterPrevious\":\\[[0-9]+", "\"afterPrevious\":[9999"},
                new String[] {"\"shape\":\\[[0-9]+", "\"shape\":[1.5"},
                new String[] {"\"op\":\"Embedding\"", "\"op\":\"Magic\""})) {
            Files.writeString(file, whole.replaceFirst(change[0], change[1]));
            assertThat(Files.readString(file)).isNotEqualTo(whole);
            assertThatThrownBy(() -> ProgramJson.read(file)).as(change[1]).isInstanceOf(UserException.class);
        }
    }

    private static List<StepProgram> programs(TrainingPlan plan) {
        return List.of(plan.train(), plan.evaluate());
    }

    private Path write(List<StepProgram> programs) throws IOException {
        Path file = folder.resolve("program.json");
        ProgramJson.write(file, programs);
        return file;
    }
}
