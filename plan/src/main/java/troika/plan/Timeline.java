package troika.plan;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;
import tools.jackson.databind.json.JsonMapper;

/// When each instruction of a program ran. Times are seconds from the start of the first step; sums and parts
/// are over all steps, [#stepSeconds] apart.
///
/// @param ranks by rank: its instructions in the order of their starts
/// @param stepEnds of each step, over all ranks
public record Timeline(StepProgram program, List<List<Span>> ranks, List<Double> stepEnds) {
    /// An instruction at work; a transfer starts when all its ranks are there.
    ///
    /// @param step it belongs to
    /// @param instruction its id
    public record Span(int step, int instruction, Lane lane, double start, double end) {
        static final Comparator<Span> BY_START =
                Comparator.comparingDouble(Span::start).thenComparingDouble(Span::end);

        double seconds() {
            return end - start;
        }
    }

    public Timeline {
        ranks = ranks.stream().map(List::copyOf).toList();
        stepEnds = List.copyOf(stepEnds);
    }

    /// A timeline of what was measured.
    ///
    /// @param arrivals by rank: of all steps, each span begins when its lane came to the instruction. That of a
    /// transfer is moved to when the last of its ranks came
    public static Timeline measured(StepProgram program, List<List<Span>> arrivals) {
        // By rank and span, what meets others there; and by that, the latest arrival.
        List<List<@Nullable List<Object>>> meetings = new ArrayList<>();
        Map<List<Object>, Double> latest = new HashMap<>();
        for (int rank = 0; rank < arrivals.size(); rank++) {
            RankProgram own = program.ranks().get(rank);
            List<@Nullable List<Object>> met = new ArrayList<>();
            Map<List<Object>, Integer> counts = new HashMap<>();
            for (Span span : arrivals.get(rank)) {
                List<Object> first = null;
                for (Call call : own.instructions().get(span.instruction()).calls()) {
                    if (call.op().collective()) {
                        List<Integer> group =
                                Meeting.group(own, call.op(), program.ranks().size());
                        List<Object> key = Meeting.key(call.op(), group);
                        List<Object> meeting = List.of(key, counts.merge(key, 1, Integer::sum));
                        first = first == null ? meeting : first;
                    }
                }
                met.add(first);
                if (first != null) {
                    latest.merge(first, span.start(), Math::max);
                }
            }
            meetings.add(met);
        }
        List<List<Span>> ranks = new ArrayList<>();
        List<Double> ends = new ArrayList<>();
        for (int rank = 0; rank < arrivals.size(); rank++) {
            List<Span> spans = new ArrayList<>();
            for (int i = 0; i < arrivals.get(rank).size(); i++) {
                Span span = arrivals.get(rank).get(i);
                List<Object> meeting = meetings.get(rank).get(i);
                double start = meeting == null ? span.start() : Math.min(span.end(), latest.getOrDefault(meeting, 0.0));
                spans.add(new Span(span.step(), span.instruction(), span.lane(), start, span.end()));
                while (ends.size() <= span.step()) {
                    ends.add(0.0);
                }
                ends.set(span.step(), Math.max(ends.get(span.step()), span.end()));
            }
            spans.sort(Span.BY_START);
            ranks.add(spans);
        }
        return new Timeline(program, ranks, ends);
    }

    /// The instructions of the steps from one on, counted from 0, at the same times.
    public Timeline since(int step) {
        return new Timeline(
                program,
                ranks.stream()
                        .map(spans -> spans.stream()
                                .filter(span -> span.step() >= step)
                                .toList())
                        .toList(),
                stepEnds);
    }

    /// When all is done.
    public double seconds() {
        return stepEnds.stream().mapToDouble(Double::doubleValue).max().orElse(0);
    }

    /// Time of a step: of several, what the last adds to the one before it.
    public double stepSeconds() {
        int last = stepEnds.size() - 1;
        return last > 0 ? stepEnds.get(last) - stepEnds.get(last - 1) : seconds();
    }

    /// Seconds in which a rank computes.
    public double computeSeconds(int rank) {
        return seconds(rank, lane -> lane == Lane.COMPUTE);
    }

    /// The part of all the time in which a rank does not compute.
    public double bubbleShare(int rank) {
        return seconds() > 0 ? 1 - computeSeconds(rank) / seconds() : 0;
    }

    /// Seconds in which bytes move between a rank and others, of each lane added up.
    public double communicationSeconds(int rank) {
        return seconds(rank, Lane::betweenRanks);
    }

    /// The part of a rank's communication during which it computes; 1 where there is none.
    public double hiddenShare(int rank) {
        double all = communicationSeconds(rank);
        if (all <= 0) {
            return 1;
        }
        List<Span> compute = lane(rank, Lane.COMPUTE);
        double hidden = 0;
        for (Lane lane : Lane.BETWEEN_RANKS) {
            int i = 0;
            for (Span span : lane(rank, lane)) {
                while (i < compute.size() && compute.get(i).end() <= span.start()) {
                    i++;
                }
                for (int j = i; j < compute.size() && compute.get(j).start() < span.end(); j++) {
                    hidden += Math.min(span.end(), compute.get(j).end())
                            - Math.max(span.start(), compute.get(j).start());
                }
            }
        }
        return hidden / all;
    }

    /// Seconds of a rank's instructions of a kind.
    public double seconds(int rank, Instruction.Kind kind) {
        List<Instruction> instructions = program.ranks().get(rank).instructions();
        return ranks.get(rank).stream()
                .filter(span -> instructions.get(span.instruction()).kind() == kind)
                .mapToDouble(Span::seconds)
                .sum();
    }

    private double seconds(int rank, Predicate<Lane> lanes) {
        return ranks.get(rank).stream()
                .filter(span -> lanes.test(span.lane()))
                .mapToDouble(Span::seconds)
                .sum();
    }

    private List<Span> lane(int rank, Lane lane) {
        return ranks.get(rank).stream().filter(span -> span.lane() == lane).toList();
    }

    /// Writes it in Chrome's trace event format: a process for each rank, a thread for each lane.
    public void write(Path file) throws IOException {
        Files.writeString(file, JsonMapper.shared().writeValueAsString(tree()));
    }

    private Map<String, Object> tree() {
        List<Map<String, Object>> events = new ArrayList<>();
        for (int rank = 0; rank < ranks.size(); rank++) {
            events.add(metadata("process_name", rank, 0, "rank " + rank));
            for (Lane lane : Lane.values()) {
                if (!lane(rank, lane).isEmpty()) {
                    events.add(metadata("thread_name", rank, lane.ordinal(), lane.toString()));
                }
            }
            for (Span span : ranks.get(rank)) {
                Instruction instruction =
                        program.ranks().get(rank).instructions().get(span.instruction());
                String block = instruction.block() < 0
                                || instruction.block() >= program.blocks().size()
                        ? ""
                        : program.blocks().get(instruction.block());
                events.add(Map.of(
                        "name",
                        instruction.toString(),
                        "cat",
                        instruction.kind().toString(),
                        "ph",
                        "X",
                        "ts",
                        span.start() * 1e6,
                        "dur",
                        span.seconds() * 1e6,
                        "pid",
                        rank,
                        "tid",
                        span.lane().ordinal(),
                        "args",
                        Map.of("id", span.instruction(), "step", span.step(), "block", block)));
            }
        }
        return Map.of("traceEvents", events, "displayTimeUnit", "ms");
    }

    private static Map<String, Object> metadata(String kind, int rank, int thread, String name) {
        return Map.of("name", kind, "ph", "M", "pid", rank, "tid", thread, "args", Map.of("name", name));
    }
}
