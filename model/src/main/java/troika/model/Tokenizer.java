package troika.model;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.OptionalInt;
import troika.tensor.UserException;

/// Turns text into token ids and back. Implementations may be used by several threads at once.
public interface Tokenizer extends AutoCloseable {
    /// The name of the file in a model's directory.
    String FILE = "tokenizer.json";

    /// Opens the tokenizer in a model's directory: `tokenizer.json`, with the tokens that begin and end
    /// documents from `tokenizer_config.json` or `config.json` where those are there.
    ///
    /// @throws UserException where there is no `tokenizer.json` or it is malformed
    static Tokenizer open(Path directory) {
        Path file = directory.resolve(FILE);
        if (!Files.isRegularFile(file)) {
            throw new UserException("There is no " + FILE + " in " + directory + "; copy the model's tokenizer there.");
        }
        byte[] json = JsonFields.bytes(file);
        return ByteTokenizer.isOwn(json) ? new ByteTokenizer() : HuggingFaceTokenizer.open(file, json);
    }

    /// The ids of a text, without adding tokens that begin or end it.
    int[] encode(String text);

    /// The text of ids; special tokens are left out, and bytes that form no character become U+FFFD. See
    /// [StreamingDecoder] for text that arrives token by token.
    ///
    /// @throws UserException where an id is negative or not below [#vocabularySize]
    String decode(int... ids);

    /// One more than the largest id.
    int vocabularySize();

    /// The token that begins a document, if there is one.
    OptionalInt bosId();

    /// The token that ends a document, if there is one.
    OptionalInt eosId();

    /// Two tokenizers of equal fingerprint give the same ids: a key for cached ids, of letters, digits and
    /// hyphens.
    String fingerprint();

    @Override
    default void close() {}
}
