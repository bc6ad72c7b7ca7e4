package troika.app;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.UnmatchedArgumentException;

/// The options of a subcommand, each with what to do with its value. They are declared in code and not by annotations:
/// that keeps reflection out of the start. A default is only told in the description, so that what was not given stays
/// distinguishable from what was.
final class Options {
    private final CommandSpec spec;
    private final List<Consumer<ParseResult>> actions = new ArrayList<>();

    Options(String name, String description) {
        spec = CommandSpec.create().name(name).mixinStandardHelpOptions(true);
        spec.usageMessage().description(description).abbreviateSynopsis(true).width(110);
        spec.usageMessage().sortOptions(false);
    }

    CommandSpec spec() {
        return spec;
    }

    <T> Options add(Class<T> type, String label, String description, Consumer<T> set, String... names) {
        return add(OptionSpec.builder(names).type(type).paramLabel(label).arity("1"), description, set, names[0]);
    }

    Options text(String label, String description, Consumer<String> set, String... names) {
        return add(String.class, label, description, set, names);
    }

    Options integer(String description, Consumer<Integer> set, String... names) {
        return add(Integer.class, "N", description, set, names);
    }

    Options count(String description, Consumer<Long> set, String... names) {
        return add(Long.class, "N", description, set, names);
    }

    Options number(String description, Consumer<Double> set, String... names) {
        return add(Double.class, "X", description, set, names);
    }

    /// An option without a value.
    Options flag(String description, Runnable set, String name) {
        return add(
                OptionSpec.builder(name).type(boolean.class).arity("0"), description, (Boolean on) -> set.run(), name);
    }

    /// An option whose value may be left out.
    Options optionalText(String label, String absent, String description, Consumer<String> set, String name) {
        var builder = OptionSpec.builder(name)
                .type(String.class)
                .paramLabel(label)
                .arity("0..1")
                .fallbackValue(absent);
        return add(builder, description, set, name);
    }

    /// An option with several values.
    Options texts(String label, String description, Consumer<List<String>> set, String name) {
        var builder = OptionSpec.builder(name)
                .type(List.class)
                .auxiliaryTypes(String.class)
                .paramLabel(label)
                .arity("1..*");
        Consumer<List<String>> checked = values -> {
            // What looks like an option is a misspelt one and no value.
            List<String> unknown =
                    values.stream().filter(value -> value.startsWith("--")).toList();
            if (!unknown.isEmpty()) {
                throw new UnmatchedArgumentException(spec.commandLine(), unknown);
            }
            set.accept(values);
        };
        return add(builder, description, checked, name);
    }

    private <T> Options add(OptionSpec.Builder builder, String description, Consumer<T> set, String name) {
        // picocli formats descriptions: a percent sign must be doubled.
        spec.addOption(builder.description(description.replace("%", "%%")).build());
        actions.add(parsed -> {
            if (parsed.hasMatchedOption(name)) {
                T value = parsed.matchedOptionValue(name, null);
                if (value == null) {
                    throw new ParameterException(spec.commandLine(), "The option " + name + " lacks its value");
                }
                set.accept(value);
            }
        });
        return this;
    }

    /// Hands the values that were given to their setters, in the order of declaration.
    void apply(ParseResult parsed) {
        actions.forEach(action -> action.accept(parsed));
    }
}
