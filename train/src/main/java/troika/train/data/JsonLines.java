package troika.train.data;

import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.function.Consumer;
import tools.jackson.core.JacksonException;
import tools.jackson.core.StreamReadConstraints;
import tools.jackson.core.json.JsonFactory;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;
import troika.tensor.UserException;

/// JSON Lines: an object a line, whose string "text" is a document. Blank lines are skipped.
final class JsonLines {
    private static final int MAX_LINE_BYTES = 256 << 20;
    private static final JsonMapper MAPPER = JsonMapper.builder(JsonFactory.builder()
                    .streamReadConstraints(StreamReadConstraints.builder()
                            .maxStringLength(MAX_LINE_BYTES)
                            .build())
                    .build())
            .build();

    private JsonLines() {}

    /// Reads all lines; documents are named `name:line`, and errors say `where` and the line.
    static void read(InputStream stream, String name, String where, Consumer<Document> sink) throws IOException {
        InputStream in = new BufferedInputStream(stream, 1 << 16);
        Line line = new Line();
        for (long number = 1; line.readFrom(in, where, number); number++) {
            String json = line.toString(StandardCharsets.UTF_8);
            if (number == 1 && json.startsWith("\uFEFF")) {
                json = json.substring(1);
            }
            if (!json.isBlank()) {
                TextReader.split(text(json, where, number), name + ":" + number, sink);
            }
        }
    }

    private static String text(String json, String where, long number) {
        JsonNode node;
        try {
            node = MAPPER.readTree(json);
        } catch (JacksonException e) {
            throw new UserException(
                    "%s, line %d, is not valid JSON (%s): every line must be an object with a \"text\"."
                            .formatted(where, number, Text.shown(e.getOriginalMessage())),
                    e);
        }
        JsonNode text = node.get("text");
        if (text == null || !text.isString()) {
            throw new UserException("%s, line %d, has no string \"text\": every line must be an object with one."
                    .formatted(where, number));
        }
        return text.stringValue();
    }

    private static final class Line extends ByteArrayOutputStream {
        // False at the end of the stream; a last line may lack its line feed.
        boolean readFrom(InputStream in, String where, long number) throws IOException {
            reset();
            int b = in.read();
            if (b < 0) {
                return false;
            }
            for (; b >= 0 && b != '\n'; b = in.read()) {
                if (count == MAX_LINE_BYTES) {
                    throw new UserException(
                            "%s, line %d, is longer than %d MiB: put every document on a line of its own."
                                    .formatted(where, number, MAX_LINE_BYTES >> 20));
                }
                write(b);
            }
            if (count < buf.length / 16 && buf.length > 1 << 20) {
                buf = java.util.Arrays.copyOf(buf, count); // one giant line must not hold its memory for ever
            }
            return true;
        }
    }
}
