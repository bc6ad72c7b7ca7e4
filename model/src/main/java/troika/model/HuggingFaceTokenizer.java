package troika.model;

import ai.djl.huggingface.tokenizers.jni.LibUtils;
import ai.djl.huggingface.tokenizers.jni.TokenizersLibrary;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import java.util.OptionalInt;
import org.jspecify.annotations.Nullable;
import tools.jackson.databind.JsonNode;
import troika.tensor.UserException;

/// A `tokenizer.json` run by Hugging Face's tokenizers library, through DJL's build of it.
final class HuggingFaceTokenizer implements Tokenizer {
    static final String CONFIG_FILE = "tokenizer_config.json";

    static {
        // The jar holds the CPU's library only: for any other flavor, which is DJL's choice where it sees a
        // card, and without the offline mode DJL would download.
        setIfAbsent("RUST_FLAVOR", "cpu");
        setIfAbsent("ai.djl.offline", "true");
        setIfAbsent("OPT_OUT_TRACKING", "true");
        // DJL logs through SLF4J, which otherwise complains on stderr that no logger is there.
        setIfAbsent("slf4j.internal.verbosity", "ERROR");
    }

    private final String file;
    private final int vocabulary;
    private final OptionalInt bos;
    private final OptionalInt eos;
    private final String fingerprint;

    /// The native tokenizer; 0 once closed.
    private long handle;

    private HuggingFaceTokenizer(
            String file, int vocabulary, OptionalInt bos, OptionalInt eos, String fingerprint, long handle) {
        this.file = file;
        this.vocabulary = vocabulary;
        this.bos = bos;
        this.eos = eos;
        this.fingerprint = fingerprint;
        this.handle = handle;
    }

    static HuggingFaceTokenizer open(Path file, byte[] json) {
        var content = JsonFields.parse(file.toString(), json);
        var vocabulary = new Vocabulary(content);
        @Nullable JsonFields config = sibling(file, CONFIG_FILE);
        @Nullable JsonFields model = sibling(file, ModelConfig.FILE);
        OptionalInt bos = special("bos", vocabulary, config, model);
        OptionalInt eos = special("eos", vocabulary, config, model);
        loadLibrary();
        long handle;
        try {
            TokenizersLibrary library = TokenizersLibrary.LIB;
            handle = library.createTokenizerFromString(new String(json, StandardCharsets.UTF_8));
            // A file's own truncation and padding serve inference on short texts; documents must stay
            // whole.
            library.disableTruncation(handle);
            library.disablePadding(handle);
        } catch (RuntimeException e) {
            throw new UserException(file + " is not understood by the tokenizers library: " + e.getMessage() + ".", e);
        }
        return new HuggingFaceTokenizer(file.toString(), vocabulary.size(), bos, eos, "hf-" + sha256(json), handle);
    }

    @Override
    public int[] encode(String text) {
        TokenizersLibrary library = TokenizersLibrary.LIB;
        long[] ids;
        try {
            long encoding = library.encode(openHandle(), text, false);
            try {
                ids = library.getTokenIds(encoding);
            } finally {
                library.deleteEncoding(encoding);
            }
        } catch (RuntimeException e) {
            throw new UserException("A text cannot be encoded by " + file + ": " + e.getMessage() + ".", e);
        }
        int[] narrow = new int[ids.length];
        for (int i = 0; i < ids.length; i++) {
            narrow[i] = Math.toIntExact(ids[i]);
        }
        return narrow;
    }

    @Override
    public String decode(int... ids) {
        long[] wide = new long[ids.length];
        for (int i = 0; i < ids.length; i++) {
            if (ids[i] < 0 || ids[i] >= vocabulary) {
                throw new UserException(
                        "The token " + ids[i] + " is not in the vocabulary of " + vocabulary + " of " + file + ".");
            }
            wide[i] = ids[i];
        }
        return TokenizersLibrary.LIB.decode(openHandle(), wide, true);
    }

    @Override
    public int vocabularySize() {
        return vocabulary;
    }

    @Override
    public OptionalInt bosId() {
        return bos;
    }

    @Override
    public OptionalInt eosId() {
        return eos;
    }

    @Override
    public String fingerprint() {
        return fingerprint;
    }

    /// Must not run beside other calls.
    @Override
    public void close() {
        if (handle != 0) {
            TokenizersLibrary.LIB.deleteTokenizer(handle);
            handle = 0;
        }
    }

    private static void loadLibrary() {
        try {
            LibUtils.checkStatus();
        } catch (RuntimeException | LinkageError e) {
            throw new UserException(
                    "The tokenizers library cannot be loaded on this machine: " + e.getMessage() + ".", e);
        }
    }

    private long openHandle() {
        if (handle == 0) {
            throw new IllegalStateException("the tokenizer is closed");
        }
        return handle;
    }

    private static @Nullable JsonFields sibling(Path file, String name) {
        Path path = file.resolveSibling(name);
        return Files.isRegularFile(path) ? JsonFields.read(path) : null;
    }

    /// `tokenizer_config.json` names the token, `config.json` gives its id.
    private static OptionalInt special(
            String name, Vocabulary vocabulary, @Nullable JsonFields config, @Nullable JsonFields model) {
        String key = name + "_token";
        if (config != null) {
            @Nullable JsonNode token = config.raw(key);
            if (token != null) {
                return vocabulary.id(
                        token.isString()
                                ? token.stringValue()
                                : config.object(key).string("content"));
            }
        }
        if (model != null) {
            @Nullable JsonNode id = model.raw(key + "_id");
            id = id != null && id.isArray() && !id.isEmpty() ? id.get(0) : id;
            if (id != null
                    && id.isIntegralNumber()
                    && id.canConvertToInt()
                    && id.intValue() >= 0
                    && id.intValue() < vocabulary.size()) {
                return OptionalInt.of(id.intValue());
            }
        }
        return OptionalInt.empty();
    }

    private static void setIfAbsent(String property, String value) {
        if (System.getProperty(property) == null) {
            System.setProperty(property, value);
        }
    }

    private static String sha256(byte[] bytes) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every JDK has SHA-256", e);
        }
    }

    /// The tokens of a `tokenizer.json`: its model's, and those added.
    private static final class Vocabulary {
        private static final int LARGEST = 1 << 26;
        private final JsonFields json;
        private final JsonFields model;
        private final int size;

        Vocabulary(JsonFields json) {
            this.json = json;
            this.model = json.object("model");
            JsonNode vocab = model.raw("vocab");
            if (vocab == null || !(vocab.isObject() || vocab.isArray())) {
                throw model.refusal("vocab", "must map tokens to their ids");
            }
            int largest = vocab.size() - 1;
            if (vocab.isObject()) {
                for (var token : vocab.properties()) {
                    largest = Math.max(largest, checked(token.getValue()));
                }
            }
            for (JsonNode token : added()) {
                largest = Math.max(largest, checked(token.get("id")));
            }
            if (largest < 0) {
                throw model.refusal("vocab", "has no tokens");
            }
            size = largest + 1;
        }

        int size() {
            return size;
        }

        OptionalInt id(String token) {
            for (JsonNode candidate : added()) {
                JsonNode content = candidate.get("content");
                if (content != null
                        && content.isString()
                        && content.stringValue().equals(token)) {
                    return OptionalInt.of(checked(candidate.get("id")));
                }
            }
            JsonNode vocab = model.raw("vocab");
            JsonNode id = vocab != null && vocab.isObject() ? vocab.get(token) : null;
            return id == null ? OptionalInt.empty() : OptionalInt.of(checked(id));
        }

        private Iterable<JsonNode> added() {
            JsonNode added = json.raw("added_tokens");
            if (added == null) {
                return List.of();
            }
            if (!added.isArray()) {
                throw json.refusal("added_tokens", "must be a list");
            }
            return added;
        }

        private int checked(@Nullable JsonNode id) {
            if (id == null
                    || !id.isIntegralNumber()
                    || !id.canConvertToInt()
                    || id.intValue() < 0
                    || id.intValue() >= LARGEST) {
                throw json.refusal("a token's id", "must be a whole number from 0 to " + (LARGEST - 1));
            }
            return id.intValue();
        }
    }
}
