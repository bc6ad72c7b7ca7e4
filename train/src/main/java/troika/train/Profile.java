package troika.train;

import java.io.IOException;
import java.lang.management.GarbageCollectorMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Function;
import java.util.function.ToDoubleFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import troika.plan.Instruction;
import troika.plan.Timeline;
import troika.tensor.UserException;
import troika.train.engine.Engine;

/// Steps of a run whose instructions are timed, and what was expected of them.
final class Profile {
    /// The first comes out of rest and is left out of what is told; the others follow one another as in a run.
    static final int STEPS = 3;

    private static final int TOLD = STEPS - 1;

    static final String FILE = "timeline.json";
    static final String EXPECTED_FILE = "timeline-plan.json";

    private final long first;
    private final Timeline expected;
    private final Engine engine;
    private final int program;
    private final Path folder;
    private long pauses;
    private long pauseMillis;
    private boolean interrupted;

    /// @param first of the steps, counted from 1
    /// @param expected as many steps of the same program
    Profile(long first, Timeline expected, Engine engine, int program, Path folder) {
        this.first = first;
        this.expected = expected;
        this.engine = engine;
        this.program = program;
        this.folder = folder;
    }

    /// Sees to it that all of the steps are to come.
    static void check(long first, long done, long total) {
        if (first <= done || first + STEPS - 1 > total) {
            long least = done + 1;
            long most = total - STEPS + 1;
            throw new UserException("--profile-step " + first
                    + " times three steps from that one on, and this run takes "
                    + "the steps " + least + " to " + total + ": "
                    + (least <= most ? "give one from " + least + " to " + most + "." : "give the run more steps."));
        }
    }

    /// Before the inputs of a step are executed.
    void before(long step) {
        if (step == first) {
            pauses = -pauses();
            pauseMillis = -pauseMillis();
            engine.time(program, STEPS);
        }
    }

    /// Behind a step the run evaluates or saves.
    void interrupt(long step) {
        interrupted |= step >= first && step < first + STEPS - 1;
    }

    /// Whether the step that has ended was the last one timed.
    boolean ends(long step) {
        return step == first + STEPS - 1;
    }

    /// Writes the timelines and returns what to tell. Waits for the end of the step.
    List<String> report() {
        Engine.Timings timings = engine.timings();
        pauses += pauses();
        pauseMillis += pauseMillis();
        try {
            timings.timeline().write(folder.resolve(FILE));
            expected.write(folder.resolve(EXPECTED_FILE));
        } catch (IOException e) {
            throw new UserException("The timeline cannot be written to " + folder + ": " + e.getMessage(), e);
        }
        List<String> lines = new ArrayList<>(lines(first, timings, expected));
        if (interrupted) {
            lines.add("Between these steps the run evaluated or saved, which counts as not computing.");
        }
        lines.add(
                pauses == 0
                        ? "The collector did not pause."
                        : "The collector paused " + pauses + " times, " + pauseMillis + " ms in all.");
        lines.add("Timelines: " + folder.resolve(FILE) + ", " + EXPECTED_FILE);
        return lines;
    }

    /// A table of what was measured, what was expected in brackets.
    static List<String> lines(long first, Engine.Timings timings, Timeline simulated) {
        Timeline measured = timings.timeline().since(STEPS - TOLD);
        Timeline expected = simulated.since(STEPS - TOLD);
        List<String> lines = new ArrayList<>();
        double took = stepSeconds(measured);
        double plan = stepSeconds(expected);
        lines.add(String.format(
                Locale.ROOT,
                "Steps %d to %d, timed: %.1f ms a step; expected of this machine: %.1f ms (%+.1f %%)",
                first + STEPS - TOLD,
                first + STEPS - 1,
                took * 1e3,
                plan * 1e3,
                100 * (plan / took - 1)));
        String row = "%-9s%18s%18s%16s%18s%14s%16s";
        lines.add(String.format(
                row,
                "ms a step",
                "computing",
                "between ranks",
                "hidden %",
                "not computing",
                "issued in",
                "as captured"));
        for (int i = 0; i < measured.ranks().size(); i++) {
            int rank = i;
            lines.add(String.format(
                    row,
                    "rank " + rank,
                    pair(measured, expected, timeline -> timeline.computeSeconds(rank) * 1e3 / TOLD),
                    pair(measured, expected, timeline -> timeline.communicationSeconds(rank) * 1e3 / TOLD),
                    pair(measured, expected, timeline -> timeline.hiddenShare(rank) * 100),
                    pair(
                            measured,
                            expected,
                            timeline -> (stepSeconds(timeline) - timeline.computeSeconds(rank) / TOLD) * 1e3),
                    number(timings.issueSeconds().get(rank) * 1e3),
                    number(timings.launchSeconds().get(rank) * 1e3)));
        }
        lines.add("By instruction, mean of the ranks: "
                + IntStream.range(0, Instruction.Kind.values().length)
                        .mapToObj(i -> Instruction.Kind.values()[i])
                        .filter(kind -> mean(measured, kind) > 0)
                        .map(kind -> kind + " " + pair(measured, expected, timeline -> mean(timeline, kind) * 1e3))
                        .collect(Collectors.joining(", ")));
        return lines;
    }

    /// Of the steps that are told of, on average.
    private static double stepSeconds(Timeline timeline) {
        return (timeline.stepEnds().getLast() - timeline.stepEnds().get(STEPS - TOLD - 1)) / TOLD;
    }

    private static double mean(Timeline timeline, Instruction.Kind kind) {
        int ranks = timeline.ranks().size();
        return IntStream.range(0, ranks)
                        .mapToDouble(rank -> timeline.seconds(rank, kind))
                        .sum()
                / ranks
                / TOLD;
    }

    private static String pair(Timeline measured, Timeline expected, ToDoubleFunction<Timeline> of) {
        return number(of.applyAsDouble(measured)) + " (" + number(of.applyAsDouble(expected)) + ")";
    }

    private static String number(double value) {
        return Double.isNaN(value) ? "-" : String.format(Locale.ROOT, "%.1f", value);
    }

    private static long pauses() {
        return collectors(GarbageCollectorMXBean::getCollectionCount);
    }

    private static long pauseMillis() {
        return collectors(GarbageCollectorMXBean::getCollectionTime);
    }

    private static long collectors(Function<GarbageCollectorMXBean, Long> of) {
        return ManagementFactory.getGarbageCollectorMXBeans().stream()
                .mapToLong(of::apply)
                .sum();
    }
}
