package troika.app;

import java.io.PrintStream;

/// A subcommand.
interface Command {
    String name();

    Options options();

    /// Does the work, after the options have been applied.
    void run(PrintStream out);
}
