package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.model.DeepSeekLlm;
import troika.model.HuggingFaceNames;
import troika.model.ModelConfig;
import troika.model.ModelWeights;
import troika.model.SafetensorsFile;
import troika.model.SafetensorsTensor;
import troika.plan.Compiler;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.ParameterGroup;
import troika.plan.PlanOptions;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.train.engine.Engine;

/// Models against transformers: what `src/test/python/make_fixtures.py` wrote with PyTorch, fp32 on a CPU.
class TransformersParityTest {
    private static final int BATCH = 3;
    private static final int SEQUENCE = 20;
    private static final int STEPS = 10;
    private static final double LEARNING_RATE = 3e-3;

    private static Path fixture(String name) {
        try {
            return Path.of(Objects.requireNonNull(
                            TransformersParityTest.class.getResource("/transformers/" + name), "no fixture " + name)
                    .toURI());
        } catch (URISyntaxException e) {
            throw new IllegalArgumentException(e);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"plain", "gqa", "tied", "head64", "head128", "scaled", "sharded", "bf16", "packed"})
    void lossGradientsAndTenStepsAgree(String name) {
        Path folder = fixture(name);
        ModelConfig config = ModelConfig.read(folder);
        Model model = DeepSeekLlm.of(config, SEQUENCE);
        List<Device> devices = TinyRun.devices(1);
        DeviceNeeds needs = TinyRun.needs(1);
        PlanOptions options = new PlanOptions(
                DType.F32,
                SEQUENCE,
                BATCH,
                1,
                Parallelism.zero(0),
                false,
                false,
                true,
                DType.F32,
                0.9f,
                0.95f,
                1e-8f,
                0.1f,
                1f,
                needs.workspaceBytes(),
                needs.logitsAtATime());
        TrainingPlan plan = new Compiler(_ -> model, Layout.dataParallel(1), options).training();
        try (Engine engine = Engine.inProcess(List.of(plan.train()), devices);
                ModelWeights weights = ModelWeights.open(folder);
                SafetensorsFile expected = SafetensorsFile.open(folder.resolve("expected.safetensors"))) {
            RankMemory memory = RankMemory.of(engine, plan.train());
            new ModelState(memory, config, model, Layout.dataParallel(1), plan.groups(), true).load(weights);
            float[] losses = floats(expected.tensor("losses"));
            float[] norms = floats(expected.tensor("norms"));
            MemorySegment report = engine.host(0, 0, "host report");
            Feed feed = new Feed(memory, plan.microbatches(), SEQUENCE);
            for (int step = 0; step < STEPS; step++) {
                int targets = 0;
                for (String input : List.of("tokens", "labels", "positions")) {
                    SafetensorsTensor all = expected.tensor(input.equals("tokens") ? "ids" : input);
                    long bytes = 4L * BATCH * SEQUENCE;
                    MemorySegment part = all.data().asSlice(step * bytes, bytes);
                    engine.host(0, 0, "host " + input + " 0").copyFrom(part);
                    for (int i = 0; input.equals("labels") && i < BATCH * SEQUENCE; i++) {
                        targets += part.get(ValueLayout.JAVA_INT_UNALIGNED, 4L * i) >= 0 ? 1 : 0;
                    }
                }
                feed.scalars(
                        LEARNING_RATE,
                        1 / (1 - Math.pow(0.9, step + 1)),
                        1 / Math.sqrt(1 - Math.pow(0.95, step + 1)),
                        0,
                        1.0 / targets,
                        1);
                engine.execute(0);
                float loss = report.getAtIndex(ValueLayout.JAVA_FLOAT, 1);
                assertThat(loss).as("loss of step %d", step).isCloseTo(losses[step], within(1e-4f * losses[step]));
                assertThat(report.getAtIndex(ValueLayout.JAVA_FLOAT, 2))
                        .as("gradient norm of step %d", step)
                        .isCloseTo(norms[step], within(1e-3f * norms[step]));
                if (step == 0) {
                    engine.drain();
                    forEachPart(plan, config, (group, at, part) -> {
                        float[] gradient = floats(expected.tensor("gradient." + part.name()));
                        float largest = 0;
                        for (float value : gradient) {
                            largest = Math.max(largest, Math.abs(value));
                        }
                        assertThat(read(engine, "gradients:" + group.name(), at, gradient.length))
                                .as("gradient of %s", part.name())
                                .containsExactly(gradient, within(1e-3f * largest));
                    });
                }
            }
            engine.drain();
            forEachPart(plan, config, (group, at, part) -> {
                float[] end = floats(expected.tensor("final." + part.name()));
                float[] own = read(engine, "master:" + group.name(), at, end.length);
                assertThat(TinyRun.distance(end, own))
                        .as("final %s", part.name())
                        .isLessThan(1e-4);
            });
        } finally {
            devices.forEach(Device::close);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"plain", "gqa", "tied", "head64", "head128", "scaled", "sharded"})
    void logitsAgreeTokenByToken(String name) {
        Path folder = fixture(name);
        try (Decoder decoder = Decoder.open(folder, TestDevices.named(1), SEQUENCE, DType.F32);
                SafetensorsFile expected = SafetensorsFile.open(folder.resolve("expected.safetensors"))) {
            float[] logits = floats(expected.tensor("logits"));
            MemorySegment ids = expected.tensor("ids").data();
            int vocabulary = ModelConfig.read(folder).vocabSize();
            for (int sequence = 0; sequence < BATCH; sequence++) {
                for (int i = 0; i < SEQUENCE; i++) {
                    int at = sequence * SEQUENCE + i;
                    decoder.decode(ids.get(ValueLayout.JAVA_INT_UNALIGNED, 4L * at), i);
                    float[] row = decoder.logits();
                    for (int v = 0; v < vocabulary; v++) {
                        assertThat(row[v]).isCloseTo(logits[at * vocabulary + v], within(1e-4f));
                    }
                }
            }
        }
    }

    @Test
    void tiedWeightsAreOneParameter() {
        ModelConfig config = ModelConfig.read(fixture("tied"));
        assertThat(DeepSeekLlm.of(config, SEQUENCE).parameterCount()).isEqualTo(config.parameterCount());
    }

    private interface PartVisitor {
        void visit(ParameterGroup group, long position, HuggingFaceNames.Part part);
    }

    private static void forEachPart(TrainingPlan plan, ModelConfig config, PartVisitor visitor) {
        for (ParameterGroup group : plan.groups().getFirst()) {
            for (int i = 0; i < group.parameters().size(); i++) {
                Parameter parameter = group.parameters().get(i);
                long columns = parameter.elements() / parameter.shape().size(0);
                for (HuggingFaceNames.Part part : HuggingFaceNames.parts(config, parameter.name())) {
                    visitor.visit(group, group.offsets().get(i) + part.firstRow() * columns, part);
                }
            }
        }
    }

    private static float[] read(Engine engine, String name, long first, int count) {
        float[] values = new float[count];
        engine.read(0, name, first, MemorySegment.ofArray(values));
        return values;
    }

    private static float[] floats(SafetensorsTensor tensor) {
        float[] values = new float[Math.toIntExact(tensor.shape().elements())];
        Floats.load(tensor.data(), tensor.dtype(), values.length, values);
        return values;
    }
}
