package troika.train;

import java.nio.file.Path;
import java.util.SplittableRandom;
import java.util.function.Consumer;
import troika.model.ModelConfig;
import troika.model.StreamingDecoder;
import troika.model.Tokenizer;
import troika.tensor.DType;
import troika.tensor.UserException;

/// Continues text with a trained model, token by token, keys and values of earlier tokens kept.
public final class Generator implements AutoCloseable {
    /// The longest text whose cache is made room for.
    private static final int MOST_POSITIONS = 4096;

    private final ModelConfig config;
    private final Tokenizer tokenizer;
    private final int positions;
    private final Decoder decoder;

    private Generator(Path directory, String device) {
        config = ModelConfig.read(directory);
        tokenizer = Tokenizer.open(directory);
        positions = Math.min(config.maxPositions(), MOST_POSITIONS);
        DType dtype = config.dtype().equals("bfloat16") ? DType.BF16 : DType.F32;
        try {
            if (tokenizer.vocabularySize() > config.vocabSize()) {
                throw new UserException("The tokenizer in " + directory + " has " + tokenizer.vocabularySize()
                        + " tokens, more than the model's vocabulary of " + config.vocabSize()
                        + ": put the model's own tokenizer.json there.");
            }
            decoder = Decoder.open(directory, device, positions, dtype);
        } catch (RuntimeException | Error e) {
            tokenizer.close();
            throw e;
        }
    }

    /// Opens a model's folder: config.json, safetensors and tokenizer.json.
    ///
    /// @param device such as "cpu:1"
    public static Generator open(Path model, String device) {
        return new Generator(model, device);
    }

    /// Writes the continuation of `prompt` to `out` as it comes, until a document ends or `maxNewTokens`
    /// are there.
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
        StreamingDecoder text = new StreamingDecoder(tokenizer);
        SplittableRandom random = new SplittableRandom(seed);
        double[] probabilities = new double[Math.min(config.vocabSize(), tokenizer.vocabularySize())];
        int at = 0;
        for (; at < ids.length - 1; at++) {
            decoder.decode(ids[at], at);
        }
        int next = ids[at];
        int end = (int) Math.min(positions, (long) ids.length - 1 + maxNewTokens);
        for (; at < end; at++) {
            decoder.decode(next, at);
            next = sample(decoder.logits(), probabilities, temperature, random);
            if (tokenizer.eosId().isPresent() && next == tokenizer.eosId().getAsInt()) {
                break;
            }
            out.accept(text.append(next));
        }
        out.accept(text.finish());
    }

    /// Draws from softmax(scores / temperature), among the tokens that the tokenizer knows.
    private static int sample(float[] scores, double[] probabilities, double temperature, SplittableRandom random) {
        int best = 0;
        for (int i = 1; i < probabilities.length; i++) {
            if (scores[i] > scores[best]) {
                best = i;
            }
        }
        if (!Float.isFinite(scores[best])) {
            throw new UserException("The model's scores of the next token are not finite: its weights hold values that"
                    + " are not finite or far too large; generate with another checkpoint.");
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
        decoder.close();
        tokenizer.close();
    }
}
