package troika.train.data;

import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import troika.tensor.UserException;

/// The documents of a run, as named by `--data`. Each argument is one of
///
/// - `x.txt`: one document; any other file of UTF-8 text likewise;
/// - `x.jsonl`, `x.ndjson`: an object a line, whose string "text" is a document;
/// - `x.parquet`: a document a row, in the column "text";
/// - `x.zip`, `x.jar`: their entries of text, source code and JSON Lines, read in place;
/// - a folder: the files of text, source code, JSON Lines and Parquet below it, without hidden ones, archives and
///   source files of more than 8 MiB;
/// - a pattern such as `dir/**/*.java` (quoted, so that the shell leaves it alone);
/// - `jdk`: the Java sources of module java.base from the lib/src.zip of a JDK (3400 documents, 52 MB in JDK 25);
///   `jdk:MODULE,MODULE` and `jdk:all` take other modules. The JDK is the one of the system property
///   `troika.jdk.home`, else the running one, else that of the environment's JAVA_HOME.
///
/// Arguments are read in the order given, the files of each sorted by relative path; a path given twice is read twice.
/// Malformed UTF-8 becomes U+FFFD. Nothing but the part of a document being read is ever on the heap.
public final class Corpus {
    private final List<String> arguments;
    private final List<Source> sources;

    private Corpus(List<String> arguments, List<Source> sources) {
        this.arguments = arguments;
        this.sources = sources;
    }

    /// Finds the files; reads none of them.
    ///
    /// @throws UserException where a path is missing, a folder has nothing to read or a pattern matches nothing
    public static Corpus open(List<String> arguments) {
        if (arguments.isEmpty()) {
            throw new UserException("No data were given: name files, folders, patterns or \"jdk\" with --data.");
        }
        List<Source> sources = new ArrayList<>();
        for (String argument : arguments) {
            sources.addAll(SourceFinder.find(argument, SourceFinder.jdkHomes()));
        }
        return new Corpus(List.copyOf(arguments), List.copyOf(sources));
    }

    /// The number of files.
    public int files() {
        return sources.size();
    }

    /// Streams all documents, in order, through this thread.
    ///
    /// @throws UserException where a file cannot be read or is malformed, or where there is no text at all
    public void forEach(Consumer<Document> sink) {
        boolean[] any = {false};
        for (Source source : sources) {
            source.read(document -> {
                any[0] |= !document.text().isEmpty();
                sink.accept(document);
            });
        }
        if (!any[0]) {
            throw new UserException("There is no text in %s: give other data.".formatted(this));
        }
    }

    /// Adds the names and bytes of all files to a digest.
    void digest(MessageDigest digest) {
        for (Source source : sources) {
            source.digest(digest);
        }
    }

    /// The arguments, for messages.
    @Override
    public String toString() {
        return String.join(", ", arguments);
    }
}
