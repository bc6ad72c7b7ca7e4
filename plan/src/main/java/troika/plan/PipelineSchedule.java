package troika.plan;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.stream.IntStream;
import troika.tensor.UserException;

/// In which order the stages of a pipeline run the forwards and backwards of their microbatches.
///
/// Costs below are of one microbatch in one stage: F a forward, B a whole backward, BI its input gradients, BW
/// its weight gradients. A stage that works alone needs M (F + B) for M microbatches; what it idles beyond
/// that is the bubble, here of p stages with equal costs, M at least p, and transfers that take no time.
public enum PipelineSchedule {
    /// One forward, one backward: a stage runs ahead by as many forwards as later stages keep in flight, then
    /// alternates, so activations of p − s microbatches are enough in stage s, however many there are.
    /// Bubble (p − 1)(F + B): 3 (p − 1) at F = 1, B = 2.
    ///
    /// Narayanan et al., "PipeDream: Generalized Pipeline Parallelism for DNN Training" (2019) and "Efficient
    /// Large-Scale Language Model Training on GPU Clusters Using Megatron-LM" (2021), the variant that is
    /// flushed at the end of a step.
    ONE_F_ONE_B("1f1b"),

    /// 1F1B on virtual stages: a stage holds c runs of blocks, so the pipeline is filled and drained in
    /// steps of a c-th of the work. Bubble (p − 1)(F + B) / c where p divides M; in steps of one chunk
    /// (F = 1, B = 2), 3 (p − 1). It sends c times as much and keeps more activations.
    ///
    /// Narayanan et al. 2021, section 2.2. Microbatches pass each chunk in groups of p; what is left of M is
    /// put before or behind or spread, whichever ends first. Where a group is short, a stage could wait
    /// for a backward that waits for its own next forward; there it runs ahead by one more forward.
    INTERLEAVED("interleaved"),

    /// ZB-H1: only input gradients are waited for by other stages, so weight gradients are put off into
    /// what would be bubbles, the more the later the stage, until all stages hold the activations of p
    /// microbatches: the largest share of 1F1B. Bubble (p − 1)(F + BI − BW): p − 1 at F = BI = BW = 1.
    ///
    /// Qi et al., "Zero Bubble Pipeline Parallelism" (2023), section 3.
    ZERO_BUBBLE("zero-bubble");

    /// What is done to a microbatch.
    public enum Phase {
        FORWARD(1),
        /// Input and weight gradients together.
        BACKWARD(2),
        BACKWARD_INPUT(1),
        BACKWARD_WEIGHT(1);

        private final int units;

        Phase(int units) {
            this.units = units;
        }

        /// Its time where a forward takes 1.
        int units() {
            return units;
        }
    }

    /// What a replica of a stage does next.
    ///
    /// @param chunk of the stage: virtual stage chunk × stages + stage
    /// @param microbatch the replica's own count: it is microbatch × replicas + replica of the step
    public record Action(Phase phase, int chunk, int microbatch) {
        /// The same of another microbatch.
        Action of(int other) {
            return new Action(phase, chunk, other);
        }
    }

    /// An action of one replica of one stage.
    ///
    /// @param start in units of time: with as many replicas in all stages, of a forward; else a stage of more
    /// replicas takes longer in proportion, as it will have more layers
    /// @param end in the same units
    public record Event(int stage, int replica, Action action, long start, long end) {}

    /// A microbatch in a chunk.
    private record Item(int chunk, int microbatch) {
        Action in(Phase phase) {
            return new Action(phase, chunk, microbatch);
        }
    }

    private final String word;

    PipelineSchedule(String word) {
        this.word = word;
    }

    /// The schedule's name in options and settings.
    public String word() {
        return word;
    }

    /// The schedule of that name; throws [UserException] where there is none.
    public static PipelineSchedule of(String word) {
        return Arrays.stream(values())
                .filter(schedule -> schedule.word.equals(word))
                .findFirst()
                .orElseThrow(() -> new UserException(
                        "There is no pipeline schedule " + word + ": name one of 1f1b, interleaved and zero-bubble."));
    }

    /// The actions of each stage in order; all replicas of a stage have the same. Whatever the numbers,
    /// replicas that follow them never wait for each other in a circle.
    ///
    /// @param dataParallel replicas of each stage
    /// @param chunks of each stage; more than one only where interleaved, with as many replicas in all stages
    /// @param microbatches of the step, over all replicas: a multiple of each stage's replicas
    public List<List<Action>> actions(List<Integer> dataParallel, int chunks, int microbatches) {
        if (chunks > 1 && this != INTERLEAVED) {
            throw new UserException("The pipeline schedule " + word + " has one chunk a stage, not " + chunks
                    + ": use the schedule interleaved or one chunk.");
        }
        if (chunks > 1 && dataParallel.stream().distinct().count() > 1) {
            throw new UserException("Interleaved stages need as many replicas in each, not " + dataParallel
                    + ": use one chunk a stage or as many replicas in all stages.");
        }
        for (int replicas : dataParallel) {
            if (chunks < 1 || microbatches % replicas != 0) {
                throw new IllegalArgumentException(
                        microbatches + " microbatches, " + chunks + " chunks and " + replicas + " replicas");
            }
        }
        if (chunks > 1) {
            return interleaved(dataParallel.size(), chunks, microbatches / dataParallel.getFirst());
        }
        return IntStream.range(0, dataParallel.size())
                .mapToObj(stage -> oneChunk(dataParallel, stage, microbatches / dataParallel.get(stage)))
                .toList();
    }

    /// The actions of a stage of one chunk.
    ///
    /// How far it runs ahead: with d replicas, before a stage of d' that keeps w' microbatches each in flight,
    /// w = 1 + ⌈w' d' / d⌉; the last stage has w = 1. At equal d that is p − s. It cannot deadlock: when the
    /// next stage waits for its next backward, it may want forwards of up to (w' − 1) d' microbatches
    /// beyond that one, fewer than w d. With layers in proportion to replicas it also keeps all stages busy,
    /// since the time from a forward to its backward grows by that of d microbatches a stage.
    private List<Action> oneChunk(List<Integer> dataParallel, int stage, int microbatches) {
        int inFlight = inFlight(dataParallel, stage);
        int deferred =
                Math.ceilDiv(inFlight(dataParallel, 0) * dataParallel.getFirst(), dataParallel.get(stage)) - inFlight;
        List<Action> actions = new ArrayList<>();
        int forwards = 0;
        int backwards = 0;
        int weights = this == ZERO_BUBBLE ? 0 : microbatches;
        while (backwards < microbatches || weights < microbatches) {
            if (backwards - weights > (backwards < microbatches ? deferred : 0)) {
                actions.add(new Action(Phase.BACKWARD_WEIGHT, 0, weights++));
            } else if (forwards < microbatches && forwards - backwards < inFlight) {
                actions.add(new Action(Phase.FORWARD, 0, forwards++));
            } else {
                Phase phase = this == ZERO_BUBBLE ? Phase.BACKWARD_INPUT : Phase.BACKWARD;
                actions.add(new Action(phase, 0, backwards++));
            }
        }
        return actions;
    }

    private static int inFlight(List<Integer> dataParallel, int stage) {
        int inFlight = 1;
        for (int s = dataParallel.size() - 2; s >= stage; s--) {
            inFlight = 1 + Math.ceilDiv(inFlight * dataParallel.get(s + 1), dataParallel.get(s));
        }
        return inFlight;
    }

    /// Of the ways to group the microbatches, the one that ends first.
    private static List<List<Action>> interleaved(int stages, int chunks, int microbatches) {
        int left = microbatches % stages;
        List<Integer> groups = new ArrayList<>();
        for (int i = 0; i < microbatches / stages; i++) {
            groups.add(stages);
        }
        List<List<Integer>> groupings = new ArrayList<>();
        if (left == 0) {
            groupings.add(groups);
        } else {
            List<Integer> behind = new ArrayList<>(groups);
            behind.add(left);
            List<Integer> before = new ArrayList<>(groups);
            before.addFirst(left);
            groupings.add(behind);
            groupings.add(before);
            int parts = groups.size() + 1;
            groupings.add(IntStream.range(0, parts)
                    .mapToObj(i -> microbatches * (i + 1) / parts - microbatches * i / parts)
                    .toList());
        }
        List<Integer> replicas = IntStream.range(0, stages).mapToObj(_ -> 1).toList();
        return groupings.stream()
                .map(sizes -> interleaved(stages, chunks, sizes))
                .min(Comparator.comparingLong(
                        actions -> globalOrder(actions, replicas).getLast().end()))
                .orElseThrow();
    }

    /// Plays Megatron's order without times: a stage runs ahead by 2 (p − s − 1) + (c − 1) p forwards, then does
    /// a backward for each further forward. Where nothing can go on, the forward that is due first does,
    /// which can always be: all stages run forwards in one order that fits their dependencies.
    private static List<List<Action>> interleaved(int stages, int chunks, List<Integer> groups) {
        List<Item> order = items(groups, chunks, false);
        List<Item> reverse = items(groups, chunks, true);
        int microbatches = order.size() / chunks;
        int[] forwards = new int[stages];
        int[] backwards = new int[stages];
        boolean[][] forwarded = new boolean[stages * chunks][microbatches];
        boolean[][] backwarded = new boolean[stages * chunks][microbatches];
        List<List<Action>> actions = new ArrayList<>();
        for (int stage = 0; stage < stages; stage++) {
            actions.add(new ArrayList<>());
        }
        while (Arrays.stream(backwards).anyMatch(done -> done < order.size())) {
            boolean moved = false;
            int first = -1;
            for (int s = 0; s < stages; s++) {
                boolean room = forwards[s] - backwards[s] <= 2 * (stages - s - 1) + (chunks - 1) * stages;
                Item forward = forwards[s] < order.size() ? order.get(forwards[s]) : new Item(-1, -1);
                int v = forward.chunk() * stages + s;
                if (forward.chunk() >= 0 && (v == 0 || forwarded[v - 1][forward.microbatch()])) {
                    if (room) {
                        forwarded[v][forward.microbatch()] = true;
                        actions.get(s).add(forward.in(Phase.FORWARD));
                        forwards[s]++;
                        moved = true;
                    } else if (first < 0 || forwards[s] < forwards[first]) {
                        first = s;
                    }
                }
                if ((!room || forward.chunk() < 0) && backwards[s] < order.size()) {
                    Item backward = reverse.get(backwards[s]);
                    v = backward.chunk() * stages + s;
                    int m = backward.microbatch();
                    if (forwarded[v][m] && (v == forwarded.length - 1 || backwarded[v + 1][m])) {
                        backwarded[v][m] = true;
                        actions.get(s).add(backward.in(Phase.BACKWARD));
                        backwards[s]++;
                        moved = true;
                    }
                }
            }
            if (!moved) {
                Item forward = order.get(forwards[first]);
                forwarded[forward.chunk() * stages + first][forward.microbatch()] = true;
                actions.get(first).add(forward.in(Phase.FORWARD));
                forwards[first]++;
            }
        }
        return actions;
    }

    private static List<Item> items(List<Integer> groups, int chunks, boolean reverse) {
        List<Item> items = new ArrayList<>();
        int start = 0;
        for (int group : groups) {
            for (int chunk = 0; chunk < chunks; chunk++) {
                for (int m = start; m < start + group; m++) {
                    items.add(new Item(reverse ? chunks - 1 - chunk : chunk, m));
                }
            }
            start += group;
        }
        return items;
    }

    /// One order of the actions of all replicas: what waits for another comes behind it. It is the order in which
    /// they end if F takes 1, B 2, BI and BW 1 unit of time, or more in proportion to the stage's replicas
    /// where these differ, and transfers none; of those that end together, earlier starts, stages and
    /// replicas come first. Throws IllegalStateException where the replicas would wait for each other for ever.
    ///
    /// @param actions of each stage
    /// @param dataParallel replicas of each stage
    public static List<Event> globalOrder(List<List<Action>> actions, List<Integer> dataParallel) {
        return new PipelinePlay(actions, dataParallel)
                .events().stream()
                        .sorted(Comparator.comparingLong(Event::end)
                                .thenComparingLong(Event::start)
                                .thenComparingInt(Event::stage)
                                .thenComparingInt(Event::replica))
                        .toList();
    }
}
