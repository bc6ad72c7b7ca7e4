package troika.train.config;

import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import troika.tensor.UserException;

/// Reads options that are one of a few words.
final class Words {
    private Words() {}

    static <T> T of(String option, String word, T[] values, Function<T, String> name) {
        for (T value : values) {
            if (name.apply(value).equals(word)) {
                return value;
            }
        }
        List<String> names = Arrays.stream(values).map(name).toList();
        throw new UserException(option + " must be one of " + String.join(", ", names) + ", and is \"" + word
                + "\": did you mean " + Nearest.of(word, names) + "?");
    }
}
