package troika.train.data;

import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.NoSuchFileException;

/// Wording shared by the messages of this package.
final class Text {
    private Text() {}

    /// Names and foreign messages come from files: without control characters, on one line, at most 200 chars.
    static String shown(String s) {
        String clean = s.replaceAll("[\\p{Cntrl}\\s]+", " ").strip();
        return clean.length() > 200 ? clean.substring(0, 200) + "…" : clean;
    }

    /// Why an operation on a file failed, as the end of a sentence.
    static String reason(Exception e) {
        return switch (e) {
            case AccessDeniedException _ -> "permission denied";
            case NoSuchFileException _ -> "no such file";
            case IOException io when io.getMessage() != null -> shown(io.getMessage());
            default -> {
                String message = e.getMessage();
                yield message == null ? e.getClass().getSimpleName() : shown(message);
            }
        };
    }
}
