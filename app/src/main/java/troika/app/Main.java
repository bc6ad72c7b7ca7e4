package troika.app;

import java.io.IOException;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import picocli.CommandLine;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.UnmatchedArgumentException;
import troika.tensor.UserException;

/// The `troika` command. Exit status: 0 done, 1 a failure of Troika itself or a certificate that does not hold, 2 a
/// mistake of the user's.
public final class Main {
    private static final int DONE = 0;
    private static final int FAILED = 1;
    private static final int MISTAKE = 2;

    private Main() {}

    /// Runs one subcommand and exits with its status.
    public static void main(String[] arguments) {
        System.exit(run(arguments, System.out, System.err, Path.of("troika-error.log")));
    }

    /// Runs one subcommand.
    static int run(String[] arguments, PrintStream out, PrintStream err, Path log) {
        try {
            return dispatch(arguments, out);
        } catch (UserException e) {
            err.println(e.getMessage());
            return MISTAKE;
        } catch (ParameterException e) {
            err.println(sentence(e));
            return MISTAKE;
        } catch (OutOfMemoryError e) {
            err.println("Memory ran out (" + e.getMessage() + "): use fewer ranks, a smaller micro-batch or --recompute"
                    + " layer, or raise TROIKA_HEAP, the size of the Java heap.");
            return MISTAKE;
        } catch (Throwable e) {
            err.println("Troika failed (" + firstLine(e) + "): this is a defect of Troika; the stack trace is in "
                    + write(e, log) + ".");
            return FAILED;
        }
    }

    private static int dispatch(String[] arguments, PrintStream out) {
        List<Command> commands = commands(arguments.length == 0 ? "" : arguments[0]);
        CommandSpec root = CommandSpec.create()
                .name("troika")
                .mixinStandardHelpOptions(true)
                .version("troika 0.1.0");
        root.usageMessage().description("Trains DeepSeek-architecture language models.");
        commands.forEach(
                command -> root.addSubcommand(command.name(), command.options().spec()));
        CommandLine line = new CommandLine(root);
        ParseResult parsed = line.parseArgs(arguments);
        ParseResult sub = parsed.hasSubcommand() ? parsed.subcommand() : parsed;
        if (sub.isUsageHelpRequested() || arguments.length == 0) {
            sub.commandSpec().commandLine().usage(out);
            return DONE;
        }
        if (sub.isVersionHelpRequested()) {
            line.printVersionHelp(out);
            return DONE;
        }
        for (Command command : commands) {
            if (command.name().equals(sub.commandSpec().name())) {
                command.options().apply(sub);
                command.run(out);
                return command.status();
            }
        }
        throw new UserException(
                "A subcommand is missing: give quickstart, train, generate, certify or doctor, or see troika --help.");
    }

    /// The command of that name alone, since describing all their options takes a tenth of a second; or all.
    private static List<Command> commands(String name) {
        return switch (name) {
            case "quickstart" -> List.of(new QuickstartCommand());
            case "train" -> List.of(new TrainCommand());
            case "generate" -> List.of(new GenerateCommand());
            case "certify" -> List.of(new CertifyCommand());
            case "doctor" -> List.of(new DoctorCommand());
            default ->
                List.of(
                        new QuickstartCommand(),
                        new TrainCommand(),
                        new GenerateCommand(),
                        new CertifyCommand(),
                        new DoctorCommand());
        };
    }

    private static String sentence(ParameterException e) {
        String message = firstLine(e)
                .strip()
                .replaceFirst(" is not an? (int|long)$", " is not a whole number")
                .replaceFirst(" is not a double$", " is not a number");
        if (e instanceof UnmatchedArgumentException unmatched
                && !unmatched.getUnmatched().isEmpty()) {
            List<String> suggestions = unmatched.getSuggestions();
            message = (unmatched.isUnknownOption() ? "There is no option " : "There is no use for the argument ")
                    + unmatched.getUnmatched().getFirst()
                    + (suggestions.isEmpty() ? "" : "; did you mean " + String.join(" or ", suggestions) + "?");
        }
        String ended =
                message.endsWith(".") || message.endsWith("?") ? message.substring(0, message.length() - 1) : message;
        String mark = message.endsWith("?") ? "? See " : ": see ";
        return ended + mark + e.getCommandLine().getCommandSpec().qualifiedName() + " --help.";
    }

    private static String firstLine(Throwable e) {
        String message = Objects.requireNonNullElse(e.getMessage(), e.getClass().getSimpleName());
        return message.lines().findFirst().orElse(e.getClass().getSimpleName());
    }

    /// Writes the stack trace where a user can find it and send it.
    private static Path write(Throwable e, Path log) {
        StringWriter trace = new StringWriter();
        e.printStackTrace(new PrintWriter(trace));
        try {
            return Files.writeString(log, trace.toString()).toAbsolutePath();
        } catch (IOException unwritable) {
            Path other = Path.of(System.getProperty("java.io.tmpdir"), "troika-error.log");
            try {
                return Files.writeString(other, trace.toString());
            } catch (IOException again) {
                e.addSuppressed(unwritable);
                e.addSuppressed(again);
                e.printStackTrace();
                return Path.of("the lines above");
            }
        }
    }
}
