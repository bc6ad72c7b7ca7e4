package troika.app;

import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicBoolean;
import troika.tensor.UserException;
import troika.train.Generator;
import troika.train.config.Devices;

/// `troika generate`.
final class GenerateCommand implements Command {
    private String model = "";
    private String prompt = "";
    private int maxNewTokens = 200;
    private double temperature = 1;
    private long seed = 42;
    private String devices = Devices.AUTO;
    private final Options options = new Options("generate", "Continues a text with a trained model.")
            .text("DIR", "The model's folder. (required)", value -> model = value, "--model")
            .text("TEXT", "What to continue. (default: nothing)", value -> prompt = value, "--prompt")
            .integer("Tokens to write at most. (default: 200)", value -> maxNewTokens = value, "--max-new-tokens")
            .number(
                    "Of the sampling; 0: always the likeliest. (default: 1)",
                    value -> temperature = value,
                    "--temperature")
            .count("Of the sampling. (default: 42)", value -> seed = value, "--seed")
            .text(
                    "auto|cpu:1|cuda:N",
                    "The device, as for train. (default: auto)",
                    value -> devices = value,
                    "--devices");

    @Override
    public String name() {
        return "generate";
    }

    @Override
    public Options options() {
        return options;
    }

    @Override
    public void run(PrintStream out) {
        if (model.isEmpty()) {
            throw new UserException("--model is missing: give the folder of a model, such as a run's model folder.");
        }
        if (!Files.isDirectory(Path.of(model))) {
            throw new UserException("The model folder " + model + " does not exist: give a run's model folder.");
        }
        if (maxNewTokens < 1) {
            throw new UserException("--max-new-tokens must be at least 1, and is " + maxNewTokens + ".");
        }
        if (!(temperature >= 0) || Double.isInfinite(temperature)) {
            throw new UserException("--temperature must be at least 0, and is " + temperature + ".");
        }
        String device = Devices.of(devices, out::println).toString();
        generate(Path.of(model), device, prompt, maxNewTokens, temperature, seed, out);
    }

    /// Prints prompt and continuation, as it comes.
    static void generate(
            Path model, String devices, String prompt, int tokens, double temperature, long seed, PrintStream out) {
        try (Generator generator = Generator.open(model, devices)) {
            AtomicBoolean begun = new AtomicBoolean();
            generator.generate(prompt, tokens, temperature, seed, text -> {
                // Not before: the prompt may be refused.
                out.print(begun.getAndSet(true) ? text : prompt + text);
                out.flush();
            });
            out.println();
        }
    }
}
