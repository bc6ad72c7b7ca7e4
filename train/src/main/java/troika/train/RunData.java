package troika.train;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.model.Tokenizer;
import troika.tensor.UserException;
import troika.train.config.TrainingOptions;
import troika.train.data.Corpus;
import troika.train.data.Dataset;
import troika.train.data.DocumentSet;
import troika.train.data.PackedDataset;
import troika.train.data.SyntheticDataset;
import troika.train.data.TokenCache;

/// The sequences that a run trains and evaluates on.
///
/// @param packed whether a sequence may hold several documents
/// @param key what the training data are: equal keys, equal data
record RunData(Dataset training, @Nullable Dataset evaluation, boolean packed, String key, List<TokenCache> caches)
        implements AutoCloseable {
    /// `--data` for seeded random tokens.
    static final String SYNTHETIC = "synthetic";
    /// `--eval-data` for a part of the training documents that is not trained on.
    static final String HELD_OUT = "held-out";
    /// Tokens held out at most: enough for three digits of the loss.
    private static final long HELD_OUT_TOKENS = 200_000;

    static RunData open(TrainingOptions options, Tokenizer tokenizer, int vocabulary) {
        int length = options.sequenceLength();
        if (options.data().contains(SYNTHETIC)) {
            if (options.data().size() > 1 || !options.evalData().isEmpty()) {
                throw new UserException(
                        "--data synthetic goes with no other data: leave out the rest and --eval-data.");
            }
            return new RunData(
                    new SyntheticDataset(vocabulary, length, options.seed()),
                    null,
                    false,
                    SYNTHETIC + "-" + vocabulary,
                    List.of());
        }
        List<TokenCache> caches = new ArrayList<>();
        try {
            TokenCache cache = open(options.data(), tokenizer, vocabulary, caches);
            DocumentSet documents = cache.all();
            String key = cache.key();
            @Nullable DocumentSet evaluation = null;
            if (options.evalData().equals(List.of(HELD_OUT))) {
                DocumentSet.Split split = DocumentSet.split(cache, length, HELD_OUT_TOKENS);
                documents = split.training();
                key += " without " + HELD_OUT;
                evaluation = split.heldOut();
            } else if (!options.evalData().isEmpty()) {
                evaluation =
                        open(options.evalData(), tokenizer, vocabulary, caches).all();
            }
            Dataset training = PackedDataset.shuffled(documents, length, options.seed());
            if (training.samplesPerEpoch() < options.batch().ranks()) {
                throw new UserException("The data make " + training.samplesPerEpoch() + " sequences of " + length
                        + " tokens, fewer than the " + options.batch().ranks()
                        + " data-parallel ranks: give more data, shorter sequences or fewer ranks.");
            }
            @Nullable Dataset held = evaluation == null ? null : PackedDataset.sequential(evaluation, length);
            return new RunData(training, held, true, key, caches);
        } catch (RuntimeException | Error e) {
            caches.forEach(TokenCache::close);
            throw e;
        }
    }

    private static TokenCache open(List<String> data, Tokenizer tokenizer, int vocabulary, List<TokenCache> caches) {
        TokenCache cache = TokenCache.open(Corpus.open(data), tokenizer, TokenCache.defaultDirectory());
        caches.add(cache);
        cache.checkVocabulary(vocabulary);
        return cache;
    }

    @Override
    public void close() {
        caches.forEach(TokenCache::close);
    }
}
