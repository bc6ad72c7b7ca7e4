package troika.train;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.List;
import java.util.SplittableRandom;
import java.util.function.Consumer;
import troika.graph.Model;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.model.ModelWeights;
import troika.model.StreamingDecoder;
import troika.model.Tokenizer;
import troika.plan.Compiler;
import troika.plan.Layout;
import troika.plan.PlanOptions;
import troika.plan.StepProgram;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.UserException;
import troika.train.engine.Engine;

/// Continues text with a trained model, token by token, keys and values of earlier tokens kept.
public final class Generator implements AutoCloseable {
    /// The longest text whose cache is made room for.
    private static final int MOST_POSITIONS = 4096;

    private final ModelConfig config;
    private final Tokenizer tokenizer;
    private final int positions;
    private final DType dtype;
    private final List<Device> devices;
    private final Engine engine;
    private final MemorySegment token;
    private final MemorySegment position;
    private final MemorySegment logits;

    private Generator(Path directory, String device) {
        config = ModelConfig.read(directory);
        tokenizer = Tokenizer.open(directory);
        positions = Math.min(config.maxPositions(), MOST_POSITIONS);
        dtype = config.dtype().equals("bfloat16") ? DType.BF16 : DType.F32;
        try (ModelWeights weights = ModelWeights.open(directory)) {
            devices = DeviceFinder.open(device);
            if (devices.size() != 1) {
                devices.forEach(Device::close);
                throw new UserException("Generation uses one rank, not " + device + ": give --devices cpu:1.");
            }
            Model model = DeepSeekLlm.of(config, positions);
            PlanOptions options = new PlanOptions(
                    dtype, 1, 1, 1, 0, false, 0, 0, 0, 0, 0, devices.getFirst().workspaceBytes());
            Compiler compiler = new Compiler(model, Layout.dataParallel(1), options);
            StepProgram program = compiler.decoding();
            engine = Engine.inProcess(List.of(program), devices);
            new ModelState(engine, config, model, compiler.groups(), dtype, false).load(weights);
        }
        token = engine.host(0, 0, "host tokens 0");
        position = engine.host(0, 0, "host positions 0");
        logits = engine.host(0, 0, "host logits");
    }

    /// Opens a model's folder: config.json, safetensors and tokenizer.json.
    ///
    /// @param device such as "cpu:1"
    public static Generator open(Path model, String device) {
        return new Generator(model, device);
    }

    /// Writes the continuation of `prompt` to `out` as it comes, until a document ends or `maxNewTokens` are there.
    ///
    /// @param temperature 0: always the likeliest token
    public void generate(String prompt, int maxNewTokens, double temperature, long seed, Consumer<String> out) {
        int[] ids = tokenizer.encode(prompt);
        if (ids.length == 0) {
            ids = new int[] {tokenizer.bosId().orElse(tokenizer.eosId().orElse(0))};
        }
        if (ids.length > positions - 1) {
            throw new UserException("The prompt has " + ids.length + " tokens, and there is room for " + (positions - 1)
                    + ": give a shorter one.");
        }
        StreamingDecoder decoder = new StreamingDecoder(tokenizer);
        SplittableRandom random = new SplittableRandom(seed);
        double[] probabilities = new double[Math.min(config.vocabSize(), tokenizer.vocabularySize())];
        float[] scores = new float[config.vocabSize()];
        int at = 0;
        for (; at < ids.length - 1; at++) {
            decode(ids[at], at);
        }
        int next = ids[at];
        int end = (int) Math.min(positions, (long) ids.length - 1 + maxNewTokens);
        for (; at < end; at++) {
            decode(next, at);
            Floats.load(logits, dtype, scores.length, scores);
            next = sample(scores, probabilities, temperature, random);
            if (tokenizer.eosId().isPresent() && next == tokenizer.eosId().getAsInt()) {
                break;
            }
            out.accept(decoder.append(next));
        }
        out.accept(decoder.finish());
    }

    private void decode(int id, int at) {
        token.set(ValueLayout.JAVA_INT, 0, id);
        position.set(ValueLayout.JAVA_INT, 0, at);
        engine.execute(0);
    }

    /// Draws from softmax(scores / temperature), among the tokens that the tokenizer knows.
    private static int sample(float[] scores, double[] probabilities, double temperature, SplittableRandom random) {
        int best = 0;
        for (int i = 1; i < probabilities.length; i++) {
            if (scores[i] > scores[best]) {
                best = i;
            }
        }
        if (temperature == 0) {
            return best;
        }
        double sum = 0;
        for (int i = 0; i < probabilities.length; i++) {
            probabilities[i] = Math.exp((scores[i] - scores[best]) / temperature);
            sum += probabilities[i];
        }
        double point = random.nextDouble() * sum;
        for (int i = 0; i < probabilities.length; i++) {
            point -= probabilities[i];
            if (point < 0) {
                return i;
            }
        }
        return best;
    }

    @Override
    public void close() {
        engine.close();
        devices.forEach(Device::close);
        tokenizer.close();
    }
}
