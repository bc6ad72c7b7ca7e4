package troika.train;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.List;
import troika.graph.Model;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.model.ModelWeights;
import troika.plan.Compiler;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PlanOptions;
import troika.plan.StepProgram;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.tensor.UserException;
import troika.train.engine.Engine;

/// A model that answers one token at a time, keys and values of the tokens before kept in its arena.
final class Decoder implements AutoCloseable {
    private final DType dtype;
    private final Device device;
    private final Engine engine;
    private final MemorySegment token;
    private final MemorySegment position;
    private final MemorySegment logits;
    private final float[] scores;

    private Decoder(
            Device device, DeviceNeeds needs, ModelConfig config, ModelWeights weights, int positions, DType dtype) {
        this.dtype = dtype;
        this.device = device;
        Model model = DeepSeekLlm.of(config, positions);
        PlanOptions options = new PlanOptions(
                dtype,
                1,
                1,
                1,
                Parallelism.zero(0),
                false,
                false,
                false,
                DType.F32,
                0,
                0,
                0,
                0,
                0,
                needs.workspaceBytes(),
                needs.logitsAtATime());
        Layout layout = Layout.dataParallel(1);
        Compiler compiler = new Compiler(_ -> model, layout, options);
        StepProgram program = compiler.decoding();
        engine = Engine.inProcess(List.of(program), List.of(device));
        try {
            new ModelState(RankMemory.of(engine, program), config, model, layout, compiler.groups(), false)
                    .load(weights);
            token = engine.host(0, 0, "host tokens 0");
            position = engine.host(0, 0, "host positions 0");
            logits = engine.host(0, 0, "host logits");
        } catch (RuntimeException | Error e) {
            engine.close();
            throw e;
        }
        scores = new float[config.vocabSize()];
    }

    /// Opens the weights in a model's folder on one device, such as "cpu:1".
    ///
    /// @param positions tokens for which there is room
    static Decoder open(Path folder, String deviceName, int positions, DType dtype) {
        ModelConfig config = ModelConfig.read(folder);
        try (ModelWeights weights = ModelWeights.open(folder)) {
            List<Device> devices = DeviceFinder.open(deviceName, true);
            if (devices.size() != 1) {
                devices.forEach(Device::close);
                throw new UserException("Generation uses one rank, not " + deviceName + ": give --devices cpu:1.");
            }
            Device device = devices.getFirst();
            try {
                DeviceNeeds needs = DeviceFinder.needs(deviceName, true);
                return new Decoder(device, needs, config, weights, positions, dtype);
            } catch (RuntimeException | Error e) {
                device.close();
                throw e;
            }
        }
    }

    /// Takes the token at a position, all positions before having been taken.
    void decode(int id, int at) {
        token.set(ValueLayout.JAVA_INT, 0, id);
        position.set(ValueLayout.JAVA_INT, 0, at);
        engine.execute(0);
    }

    /// The scores of each token to come next, valid until the next [#decode].
    float[] logits() {
        Floats.load(logits, dtype, scores.length, scores);
        return scores;
    }

    @Override
    public void close() {
        engine.close();
        device.close();
    }
}
