package troika.app;

import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;
import troika.plan.MemoryPlan;
import troika.plan.TensorSpec;
import troika.tensor.Bytes;
import troika.train.StepMetrics;
import troika.train.TrainingListener;
import troika.train.TrainingResult;
import troika.train.TrainingStart;

/// Shows a run: on a terminal one line that lives, elsewhere a line every so many steps.
final class ProgressBar implements TrainingListener {
    private static final long REDRAW_NANOS = 100_000_000;
    private static final int SHORTEST_BAR = 5;
    private static final int LONGEST_BAR = 40;
    private static final double MIB = 1 << 20;
    /// What an arena is made of, padding apart.
    private static final List<TensorSpec.Role> PARTS = List.of(
            TensorSpec.Role.WEIGHTS,
            TensorSpec.Role.MASTER_WEIGHTS,
            TensorSpec.Role.MOMENTS,
            TensorSpec.Role.GRADIENTS,
            TensorSpec.Role.ACTIVATIONS,
            TensorSpec.Role.WORKSPACE,
            TensorSpec.Role.INPUTS);
    private static final List<String> COLUMNS = List.of("%-9s %9.1f", "%-14s %9.1f", "%-9s %9.1f");
    /// Weight of the newest step in the mean duration that foretells the time left.
    private static final double SMOOTHING = 0.1;

    private final PrintStream out;
    private final boolean terminal;
    private final int width;
    private final long loggingSteps;
    private final LongSupplier nanos;
    private long totalSteps;
    private long drawn;
    private double stepSeconds = Double.NaN;
    private @Nullable StepMetrics last;
    private boolean lineOpen;

    /// @param nanos since the start of the JVM
    ProgressBar(PrintStream out, boolean terminal, int width, long loggingSteps, LongSupplier nanos) {
        this.out = out;
        this.terminal = terminal;
        this.width = width;
        this.loggingSteps = loggingSteps;
        this.nanos = nanos;
        this.drawn = nanos.getAsLong() - REDRAW_NANOS;
    }

    /// For this process; the launcher says in the property `troika.terminal` whether the output is a terminal.
    static ProgressBar on(PrintStream out, long loggingSteps) {
        boolean terminal = Boolean.getBoolean("troika.terminal");
        long start = System.nanoTime() - ManagementFactory.getRuntimeMXBean().getUptime() * 1_000_000;
        return new ProgressBar(
                out, terminal, width(System.getenv("COLUMNS")), loggingSteps, () -> System.nanoTime() - start);
    }

    static int width(@Nullable String columns) {
        boolean number = columns != null && columns.matches("[1-9][0-9]{0,3}");
        return number && columns != null ? Math.max(40, Integer.parseInt(columns)) : 80;
    }

    @Override
    public void onStart(TrainingStart start) {
        totalSteps = start.totalSteps();
        say(String.format(
                Locale.ROOT,
                "%s parameters on %d %s of %s; %d steps of %d sequences of %d tokens; %s of arenas",
                amount((double) start.parameters()),
                start.ranks(),
                start.ranks() == 1 ? "rank" : "ranks",
                start.device(),
                start.totalSteps(),
                start.batchSequences(),
                start.sequenceLength(),
                bytes(start.arenaBytes())));
        start.notes().forEach(this::say);
        say(memory(start.memory(), start.ranks()));
    }

    /// The parts of a rank's arena as a block of three columns.
    static String memory(MemoryPlan plan, int ranks) {
        Map<String, Long> parts = new LinkedHashMap<>();
        for (TensorSpec.Role role : PARTS) {
            parts.put(
                    role.name().toLowerCase(Locale.ROOT).replace('_', ' '),
                    plan.bytes().getOrDefault(role, 0L));
        }
        parts.put("padding", plan.padding());
        parts.put("total", plan.total());
        StringBuilder text = new StringBuilder(ranks == 1 ? "memory, MiB:" : "memory of the largest rank, MiB:");
        int column = 0;
        for (Map.Entry<String, Long> part : parts.entrySet()) {
            text.append(column % 3 == 0 ? System.lineSeparator() + "  " : "   ")
                    .append(String.format(
                            Locale.ROOT, COLUMNS.get(column++ % 3), part.getKey(), part.getValue() / MIB));
        }
        return text.toString();
    }

    @Override
    public void onStep(StepMetrics metrics) {
        // The first step of a process is slow, and says nothing of the others.
        boolean first = last == null;
        last = metrics;
        if (first) {
            say(String.format(
                    Locale.ROOT, "first step done %.1f s after the start of the JVM", nanos.getAsLong() / 1e9));
        } else {
            stepSeconds = Double.isNaN(stepSeconds)
                    ? metrics.seconds()
                    : stepSeconds + SMOOTHING * (metrics.seconds() - stepSeconds);
        }
        boolean end = metrics.step() == totalSteps;
        if (metrics.skipped()) {
            // There are few of them, and a user will want to see them all.
            say(String.format(
                    Locale.ROOT,
                    "step %d/%d: skipped, since gradients overflowed at the loss scale %s",
                    metrics.step(),
                    totalSteps,
                    metrics.plainLossScale()));
        } else if (terminal) {
            long now = nanos.getAsLong();
            if (now - drawn >= REDRAW_NANOS || end) {
                drawn = now;
                out.print("\r" + bar(metrics) + "\u001b[K");
                out.flush();
                lineOpen = true;
            }
        } else if (metrics.step() % loggingSteps == 0 || first || end) {
            out.println(plain(metrics));
        }
    }

    @Override
    public void onEvaluation(long step, double loss) {
        say(String.format(Locale.ROOT, "step %d: held-out loss %.4f", step, loss));
    }

    @Override
    public void onSave(Path checkpoint) {
        say("saved " + checkpoint);
    }

    @Override
    public void onMessage(String line) {
        say(line);
    }

    @Override
    public void onEnd(TrainingResult result) {
        closeLine();
    }

    private void say(String line) {
        if (lineOpen) {
            out.print("\r\u001b[K");
            lineOpen = false;
        }
        out.println(line);
        out.flush();
    }

    private void closeLine() {
        if (lineOpen) {
            out.println();
            out.flush();
            lineOpen = false;
        }
    }

    private String bar(StepMetrics metrics) {
        String head = metrics.step() + "/" + totalSteps + " ";
        String tail = String.format(
                Locale.ROOT,
                " loss %.3f, %s tokens/s, lr %s, %s%s",
                metrics.loss(),
                amount(metrics.tokensPerSecond()),
                rate(metrics.learningRate()),
                bytes(metrics.memoryBytes()),
                left(metrics));
        // The last column stays free: some terminals wrap when it is filled.
        int room = Math.min(LONGEST_BAR, width - 1 - head.length() - tail.length() - 2);
        String line = room < SHORTEST_BAR
                ? head.stripTrailing() + tail
                : head + "[" + filled(metrics.step(), room) + "]" + tail;
        return line.substring(0, Math.min(line.length(), width - 1));
    }

    private String filled(long step, int room) {
        int full = (int) (room * Math.min(step, totalSteps) / Math.max(1, totalSteps));
        return "=".repeat(full) + " ".repeat(room - full);
    }

    private String plain(StepMetrics metrics) {
        return String.format(
                Locale.ROOT,
                "step %d/%d: loss %.4f, gradient norm %.3f, learning rate %s, %s tokens/s, %s%s",
                metrics.step(),
                totalSteps,
                metrics.loss(),
                metrics.gradNorm(),
                rate(metrics.learningRate()),
                amount(metrics.tokensPerSecond()),
                bytes(metrics.memoryBytes()),
                left(metrics));
    }

    private String left(StepMetrics metrics) {
        if (Double.isNaN(stepSeconds) || metrics.step() >= totalSteps) {
            return "";
        }
        return ", " + duration((totalSteps - metrics.step()) * stepSeconds) + " left";
    }

    static String duration(double seconds) {
        long whole = Math.round(seconds);
        return whole < 3600
                ? String.format(Locale.ROOT, "%d:%02d", whole / 60, whole % 60)
                : String.format(Locale.ROOT, "%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
    }

    /// A number in few digits: 950, 12.3k, 4.56M, 7.89G.
    static String amount(double number) {
        if (number < 1e3) {
            return String.format(Locale.ROOT, "%.0f", number);
        }
        if (number < 1e6) {
            return String.format(Locale.ROOT, "%.1fk", number / 1e3);
        }
        return number < 1e9
                ? String.format(Locale.ROOT, "%.2fM", number / 1e6)
                : String.format(Locale.ROOT, "%.2fG", number / 1e9);
    }

    static String bytes(long bytes) {
        return bytes < 1L << 30 ? Bytes.mib(bytes, 0) : Bytes.gib(bytes, 1);
    }

    private static String rate(double learningRate) {
        return String.format(Locale.ROOT, "%.2e", learningRate);
    }
}
