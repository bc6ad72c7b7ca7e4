package troika.model;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.OptionalInt;
import tools.jackson.databind.node.ArrayNode;
import tools.jackson.databind.node.ObjectNode;
import troika.tensor.UserException;

/// One token a byte of UTF-8: id = byte, from 0 to 255, then `<bos>` 256 and `<eos>` 257. Needs no
/// vocabulary file. In text, `<bos>` and `<eos>` are their five bytes here, whereas the library behind
/// `tokenizer.json` takes them for the special tokens; all other text has the same ids in both.
public final class ByteTokenizer implements Tokenizer {
    static final int BOS = 256;
    static final int EOS = 257;
    private static final int VOCABULARY = 258;

    @Override
    public int[] encode(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        int[] ids = new int[bytes.length];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = bytes[i] & 0xff;
        }
        return ids;
    }

    @Override
    public String decode(int... ids) {
        byte[] bytes = new byte[ids.length];
        int n = 0;
        for (int id : ids) {
            if (id < 0 || id >= VOCABULARY) {
                throw new UserException("The token " + id + " is not in the byte vocabulary of " + VOCABULARY + ".");
            }
            if (id < BOS) {
                bytes[n++] = (byte) id;
            }
        }
        return new String(bytes, 0, n, StandardCharsets.UTF_8);
    }

    @Override
    public int vocabularySize() {
        return VOCABULARY;
    }

    @Override
    public OptionalInt bosId() {
        return OptionalInt.of(BOS);
    }

    @Override
    public OptionalInt eosId() {
        return OptionalInt.of(EOS);
    }

    @Override
    public String fingerprint() {
        return "bytes-1";
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a model's directory, so that transformers
    /// loads this tokenizer too.
    public static void write(Path directory) throws IOException {
        Files.write(directory.resolve(FILE), tokenizerJson());
        Files.write(directory.resolve(HuggingFaceTokenizer.CONFIG_FILE), configJson());
    }

    static boolean isOwn(byte[] tokenizerJson) {
        return Arrays.equals(tokenizerJson, tokenizerJson());
    }

    /// The content of `tokenizer.json`: a byte-level BPE model without merges, whose 256 letters have their
    /// byte as id.
    public static byte[] tokenizerJson() {
        ObjectNode json = JsonFields.newObject();
        json.put("version", "1.0");
        json.putNull("truncation");
        json.putNull("padding");
        ArrayNode added = json.putArray("added_tokens");
        addSpecial(added, BOS, "<bos>");
        addSpecial(added, EOS, "<eos>");
        json.putNull("normalizer");
        byteLevel(json.putObject("pre_tokenizer"));
        json.putNull("post_processor");
        byteLevel(json.putObject("decoder"));
        ObjectNode model = json.putObject("model");
        model.put("type", "BPE");
        model.putNull("dropout");
        model.putNull("unk_token");
        model.putNull("continuing_subword_prefix");
        model.putNull("end_of_word_suffix");
        model.put("fuse_unk", false);
        model.put("byte_fallback", false);
        ObjectNode vocabulary = model.putObject("vocab");
        int unprintable = 256;
        for (int b = 0; b < 256; b++) {
            // Byte-level BPE writes each byte as a visible character: Latin-1's own where visible, else the
            // next from U+0100.
            boolean visible = (b > ' ' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
            vocabulary.put(String.valueOf((char) (visible ? b : unprintable++)), b);
        }
        vocabulary.put("<bos>", BOS);
        vocabulary.put("<eos>", EOS);
        model.putArray("merges");
        return JsonFields.write(json);
    }

    /// The content of `tokenizer_config.json`.
    public static byte[] configJson() {
        ObjectNode json = JsonFields.newObject();
        json.put("tokenizer_class", "PreTrainedTokenizerFast");
        json.put("bos_token", "<bos>");
        json.put("eos_token", "<eos>");
        json.put("add_bos_token", false);
        json.put("add_eos_token", false);
        json.put("clean_up_tokenization_spaces", false);
        return JsonFields.write(json);
    }

    private static void addSpecial(ArrayNode added, int id, String content) {
        ObjectNode token = added.addObject();
        token.put("id", id);
        token.put("content", content);
        token.put("single_word", false);
        token.put("lstrip", false);
        token.put("rstrip", false);
        token.put("normalized", false);
        token.put("special", true);
    }

    private static void byteLevel(ObjectNode part) {
        part.put("type", "ByteLevel");
        part.put("add_prefix_space", false);
        part.put("trim_offsets", true);
        part.put("use_regex", false);
    }
}
