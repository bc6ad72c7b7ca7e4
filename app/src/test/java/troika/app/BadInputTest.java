package troika.app;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Mistakes as a new user makes them: each gets one sentence and status 2.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class BadInputTest {
    static final String CONFIG = """
            {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 264, "hidden_size": 32,
             "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000, "hidden_act": "silu",
             "torch_dtype": "float32"}
            """;
    private static final String TOKENIZER = """
            {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}
            """;

    @TempDir
    static Path shared = Path.of("");

    private int outputs;

    @BeforeAll
    void makeWhatTheMistakesName() throws IOException {
        System.setProperty("troika.cache", shared.resolve("cache").toString());
        write("m/config.json", CONFIG);
        write("text.txt", "Hello, this is text to train on. ".repeat(100));
        write("empty.txt", "");
        write("hi.txt", "hi");
        write("bad.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n");
        Files.createDirectories(shared.resolve("bare"));
        write("gpt/config.json", CONFIG.replace("LlamaForCausalLM", "GPT2LMHeadModel"));
        write("v3/config.json", CONFIG.replace("LlamaForCausalLM", "DeepseekV3ForCausalLM"));
        write("cut/config.json", CONFIG.substring(0, 60));
        write("small/config.json", CONFIG.replace("264", "100"));
        write("heads/config.json", CONFIG.replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 5"));
        write("plain/config.json", CONFIG);
        write("plain/tokenizer.json", TOKENIZER);
        write("garbage/config.json", CONFIG);
        Files.write(shared.resolve("garbage/model.safetensors"), new byte[] {1, 2, 3, 4, 5, 6, 7, 8, 9});
        write("shapes/config.json", CONFIG);
        safetensors(
                "shapes", "{\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
        write("lacks/config.json", CONFIG);
        safetensors("lacks", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
        write("three.json", """
                {"train_batch_size": 12, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
                """);
        write("typo.json", "{\"train_batch_sise\": 12}");
        write("broken.json", "{oops}");
        assertThat(run(List.of("train --model m --data text.txt --tokenizer byte --sequence-length 32 --max-steps 1"
                        .concat(" --train-batch-size 2 --save-steps 1 --output done")
                        .split(" "))))
                .isZero();
    }

    private final ByteArrayOutputStream out = new ByteArrayOutputStream();
    private final ByteArrayOutputStream err = new ByteArrayOutputStream();

    private void write(String name, String content) throws IOException {
        Path file = shared.resolve(name);
        Files.createDirectories(file.getParent());
        Files.writeString(file, content);
    }

    private void safetensors(String folder, String header) throws IOException {
        byte[] bytes = header.getBytes(UTF_8);
        ByteBuffer file = ByteBuffer.allocate(8 + bytes.length + 8).order(ByteOrder.LITTLE_ENDIAN);
        file.putLong(bytes.length).put(bytes);
        Files.write(shared.resolve(folder).resolve("model.safetensors"), file.array());
    }

    /// Words that name something in the shared folder become its path.
    private int run(List<String> words) {
        out.reset();
        err.reset();
        List<String> arguments = new ArrayList<>();
        boolean path = false;
        for (String word : words) {
            arguments.add(path && !word.contains("tiny") ? shared.resolve(word).toString() : word);
            path = List.of("--model", "--data", "--eval-data", "--config", "--output")
                            .contains(word)
                    || word.equals("--resume-from");
        }
        arguments.replaceAll(word -> word.equals("--resume-from") ? "--resume" : word);
        return Main.run(
                arguments.toArray(String[]::new),
                new PrintStream(out, true, UTF_8),
                new PrintStream(err, true, UTF_8),
                shared.resolve("troika-error.log"));
    }

    private void assertOneSentence(int status, String sentence) {
        assertThat(err.toString(UTF_8).lines())
                .singleElement()
                .asString()
                .contains(sentence)
                .matches(".*[.?]")
                .doesNotContain("Exception", "null", "REDACTED");
        assertThat(status).isEqualTo(2);
        assertThat(out.toString(UTF_8)).doesNotContain("step ");
        assertThat(shared.resolve("troika-error.log")).doesNotExist();
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "m | --data none.txt | none.txt does not exist",
                "m | --data empty.txt | There is no text in",
                "m | --data hi.txt | The data have only 3 tokens, less than one sequence of 32",
                "m | --data bad.jsonl | line 2",
                "m | --data *.nothing | No file matches",
                "m | --data text.txt --eval-data none.txt | none.txt does not exist",
                "bare | --data text.txt | There is no config.json in",
                "none | --data text.txt | is neither a folder nor a preset",
                "gpt | --data text.txt | GPT2LMHeadModel, but Troika trains LlamaForCausalLM",
                "v3 | --data text.txt | DeepseekV3ForCausalLM, but Troika trains",
                "cut | --data text.txt | config.json is not valid JSON",
                "small | --data text.txt | more than the model's vocabulary of 100",
                "heads | --data text.txt | must be a multiple of num_attention_heads 5",
                "garbage | --data text.txt | model.safetensors is no safetensors file",
                "shapes | --data text.txt | Tensor model.embed_tokens.weight is F32[2] in",
                "lacks | --data text.txt | no tensor model.embed_tokens.weight in the weights of",
                "m | --data text.txt --output done | holds another run",
                "m | --data text.txt --output text.txt | is a file: give a folder with --output",
                "m | --data text.txt --output text.txt/run | cannot be written",
                "m | --data text.txt --resume | There is no checkpoint in",
                "m | --data text.txt --resume-from none | is not there",
                "m | --data text.txt --resume-from m | is not a checkpoint",
                "m | --data text.txt --output done --resume --seed 3 | was made with --seed 42",
                "m | --data text.txt --devices cpu:3 --config three.json | = 24: give any two of the three",
                "m | --data text.txt --config typo.json | did you mean \"train_batch_size\"",
                "m | --data text.txt --config broken.json | is not valid JSON",
                "m | --data text.txt --devices cpu:3 --train-batch-size 2 | fewer sequences than the 3 microbatches",
                "m | --data text.txt --devices cpu:60 --sequence-length 64 | fewer than the 60 data-parallel ranks",
                "m | --data text.txt --devices cpu:0 | a number of ranks from 1 to 1024",
                "m | --data text.txt --devices tpu:0 | names a kind of device that Troika does not have",
                "m | --data text.txt --devices cuda:x | does not name a card",
                "m | --data text.txt --sequence-length 129 | give --sequence-length 128 or less",
                "m | --data text.txt --sequence-length 0 | --sequence-length must be from 2",
                "m | --data text.txt --sequence-length -8 | --sequence-length must be from 2",
                "m | --data text.txt --learning-rate 0 | --learning-rate must be above 0",
                "m | --data text.txt --zero-stage 4 | --zero-stage must be from 0 to 3",
                "m | --data text.txt --pipeline-parallel 3 | the model has 2: use at most 2 stages",
                "m | --data text.txt --tensor-parallel 5 | the model has 4 attention heads, one each at least",
                "m | --data text.txt --layout 0,0 | uses rank 0 twice",
                "m | --data text.txt --layout 0-2:tp2 | write dp and tp whose product is 3",
                "m | --data text.txt --layout 0,1 --devices cpu:3 | has 2 ranks, and --devices cpu:3 makes 3",
                "m | --data text.txt --layout 0,1 --tensor-parallel 2 | leave out --tensor-parallel",
                "m | --data text.txt --devices cpu:3 --tensor-parallel 2 | use 2 or 4 ranks, or give stages",
                "m | --data text.txt --shares 1,0 | A rank's share must be above 0",
                "m | --data text.txt --shares 1,x | --shares must be a number for each rank, such as 1,1,0.6",
                "m | --data text.txt --devices cpu:3 --shares 1,1 | There are 2 shares for 3 ranks",
                "m | --data text.txt --pipeline-schedule gpipe | must be one of 1f1b, interleaved, zero-bubble",
                "m | --data text.txt --pipeline-schedule zero-bubble | needs a pipeline, and the layout 0 has one",
                "m | --data text.txt --sequence-parallel on | is for tensor-parallel ranks",
                "m | --data text.txt --overlap maybe | --overlap must be on or off",
                "m | --data text.txt --communication-dtype fp8 | --communication-dtype must be fp32, bf16 or fp16",
                "m | --data text.txt --dump-program /none/p.json | name a file in a folder that exists",
                "m | --data text.txt --optimizer sgd | There is no option --optimizer",
            })
    void training(String model, String mistake, String sentence) {
        List<String> words = new ArrayList<>(List.of("train", "--model", model, "--tokenizer", "byte"));
        words.addAll(List.of(mistake.split(" ")));
        add(words, "--output", "new" + outputs);
        add(words, "--sequence-length", "32");
        add(words, "--max-steps", "1");
        assertOneSentence(run(words), sentence);
        assertThat(shared.resolve("new" + outputs++).resolve("run.json")).doesNotExist();
    }

    private static void add(List<String> words, String option, String value) {
        if (!words.contains(option)) {
            words.addAll(List.of(option, value));
        }
    }

    @Test
    void aTokenizerWithoutAnEnd() {
        String line = "train --model plain --data text.txt --sequence-length 32 --output new";
        assertOneSentence(run(List.of(line.split(" "))), "The tokenizer lacks an end-of-sequence token");
    }

    @Test
    void aModelFolderWithoutTokenizer() {
        String line = "train --model m --data text.txt --sequence-length 32 --output new";
        assertOneSentence(run(List.of(line.split(" "))), "has no tokenizer.json: give --tokenizer");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "--model none | does not exist: give a run's model folder",
                "--model bare | There is no config.json in",
                "--model done | There is no config.json in",
                "--model m | There is no tokenizer.json in",
                "--model plain | There is no model.safetensors nor",
                "--model done/model --temperature -1 | --temperature must be at least 0",
                "--model done/model --max-new-tokens 0 | --max-new-tokens must be at least 1",
                "--model done/model --devices cpu:2 | Generation uses one rank",
                "--model done/model --prompt LONG | The prompt has 200 tokens, and there is room for 127",
            })
    void generating(String mistake, String sentence) {
        List<String> words = new ArrayList<>(List.of("generate"));
        words.addAll(List.of(mistake.replace("LONG", "a".repeat(200)).split(" ")));
        assertOneSentence(run(words), sentence);
        assertThat(out.size()).isZero();
    }

    @Test
    void whatIsNoMistakeWorks() {
        assertThat(run(List.of(
                        "generate --model done/model --prompt Hi --max-new-tokens 3 --temperature 0".split(" "))))
                .isZero();
        assertThat(out.toString(UTF_8)).startsWith("Hi");
        assertThat(err.size()).isZero();
    }
}
