package troika.model;

import java.util.OptionalInt;

/// Turns text into token ids and back; safe for use by several threads.
public interface Tokenizer {
    /// The ids of a text, without beginning or end tokens.
    int[] encode(String text);

    /// The text of ids.
    String decode(int[] ids);

    /// One more than the largest id.
    int vocabularySize();

    /// The id that begins a sequence, if the tokenizer has one.
    OptionalInt bosId();

    /// The id that ends a document, if the tokenizer has one.
    OptionalInt eosId();

    /// Names this tokenizer's behaviour: two tokenizers with one fingerprint encode alike.
    String fingerprint();
}
