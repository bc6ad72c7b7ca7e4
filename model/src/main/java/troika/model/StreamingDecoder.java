package troika.model;

import java.util.Arrays;

/// Decodes tokens as they arrive: each call returns the text that is complete by then. A character whose
/// bytes span several tokens is held back until its last.
public final class StreamingDecoder {
    /// A character has at most 4 bytes; more tokens than this without a whole character are broken bytes,
    /// shown as such.
    private static final int LONGEST_WAIT = 8;

    private final Tokenizer tokenizer;
    private int[] ids = new int[16];
    private int size;

    /// Tokens before `done` are in the text returned so far; those from `context` on are decoded again with
    /// new ones, since some tokenizers write a token differently at a text's start.
    private int context;

    private int done;

    public StreamingDecoder(Tokenizer tokenizer) {
        this.tokenizer = tokenizer;
    }

    /// Takes the next token and returns the new text, often empty or one word.
    public String append(int id) {
        if (size == ids.length) {
            compact();
        }
        ids[size++] = id;
        String text = pending();
        boolean partial = text.endsWith("\ufffd") && size - done < LONGEST_WAIT;
        if (!partial) {
            context = done;
            done = size;
            return text;
        }
        return "";
    }

    /// Ends the text and returns what was held back.
    public String finish() {
        String text = pending();
        context = done = size = 0;
        return text;
    }

    private String pending() {
        String before = tokenizer.decode(Arrays.copyOfRange(ids, context, done));
        String all = tokenizer.decode(Arrays.copyOfRange(ids, context, size));
        return all.substring(Math.min(before.length(), all.length()));
    }

    private void compact() {
        System.arraycopy(ids, context, ids, 0, size - context);
        size -= context;
        done -= context;
        context = 0;
        if (size == ids.length) {
            ids = Arrays.copyOf(ids, 2 * size);
        }
    }
}
