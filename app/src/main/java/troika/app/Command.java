package troika.app;

import java.io.PrintStream;

/// A subcommand.
interface Command {
    String name();

    Options options();

    /// Does the work, after the options have been applied.
    void run(PrintStream out);

    /// The exit status, after [#run]: 0, or 1 where it found that something does not hold.
    default int status() {
        return 0;
    }
}
