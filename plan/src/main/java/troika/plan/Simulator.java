package troika.plan;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import troika.graph.Op;

/// Plays a program on machines that are not there: how long a step takes, and what waits for what.
///
/// It plays discrete events. A lane runs its instructions in order, each once those that it waits for are
/// done: kernels for the time that [CostModel] says, whatever other lanes do; transfers from the moment when
/// all their ranks have come, at rates that change as others start and end ([Links]). The k-th collective of
/// an axis meets the k-th of that axis on its other ranks, the k-th Send from one rank to another its k-th
/// Receive. Left out is that kernels and transfers slow each other.
public final class Simulator {
    private final List<Rank> ranks;
    private final CostModel cost;
    private final int steps;
    private final Links links;
    private final Map<List<Object>, ArrayDeque<Gathering>> gatherings = new HashMap<>();
    private final PriorityQueue<Timer> timers =
            new PriorityQueue<>(Comparator.comparingDouble(Timer::at).thenComparingLong(Timer::number));
    private final double[] stepEnds;
    private double now;
    private long timersSet;

    /// What happens at a time; of several at one time, those set first come first.
    private record Timer(double at, long number, Runnable action) {}

    /// A meeting that some ranks have come to.
    private record Gathering(Meeting meeting, List<Run> runs) {}

    /// A rank's lanes and what is done.
    private static final class Rank {
        private final RankProgram program;
        private final List<List<Instruction>> lanes = new ArrayList<>();
        private final int[] positions = new int[Lane.values().length];
        private final @Nullable Run[] running = new Run[Lane.values().length];
        private final boolean[][] done;
        private final List<Timeline.Span> spans = new ArrayList<>();

        Rank(RankProgram program, int steps) {
            this.program = program;
            this.done = new boolean[steps][program.instructions().size()];
            for (Lane lane : Lane.values()) {
                lanes.add(program.instructions().stream()
                        .filter(instruction -> instruction.lane() == lane)
                        .toList());
            }
        }
    }

    /// An instruction at work.
    private static final class Run {
        private final Rank rank;
        private final int step;
        private final Instruction instruction;
        private int call;
        private double start = -1;

        Run(Rank rank, int step, Instruction instruction) {
            this.rank = rank;
            this.step = step;
            this.instruction = instruction;
        }
    }

    private Simulator(StepProgram program, CostModel cost, int steps) {
        if (cost.cards().size() < program.ranks().size() || steps < 1) {
            throw new IllegalArgumentException(
                    program.ranks().size() + " ranks on " + cost.cards().size() + " cards, " + steps + " steps");
        }
        this.ranks = program.ranks().stream().map(rank -> new Rank(rank, steps)).toList();
        this.cost = cost;
        this.steps = steps;
        this.links = new Links(cost);
        this.stepEnds = new double[steps];
    }

    /// One step. Throws IllegalStateException where ranks would wait for each other for ever.
    public static Timeline simulate(StepProgram program, CostModel cost) {
        return simulate(program, cost, 1);
    }

    /// Steps back to back: each instruction also waits for those of the step before that it must.
    public static Timeline simulate(StepProgram program, CostModel cost, int steps) {
        Simulator simulator = new Simulator(program, cost, steps);
        simulator.play();
        return new Timeline(
                program,
                simulator.ranks.stream()
                        .map(rank -> rank.spans.stream()
                                .sorted(Timeline.Span.BY_START)
                                .toList())
                        .toList(),
                IntStream.range(0, steps)
                        .mapToObj(step -> simulator.stepEnds[step])
                        .toList());
    }

    private void play() {
        ranks.forEach(this::startLanes);
        while (true) {
            Timer timer = timers.peek();
            double untilTimer = timer == null ? Double.POSITIVE_INFINITY : Math.max(0, timer.at() - now);
            double untilFlow = links.untilNext();
            double passing = Math.min(untilTimer, untilFlow);
            if (Double.isInfinite(passing)) {
                break;
            }
            now = untilFlow < untilTimer || timer == null ? now + untilFlow : timer.at();
            List<Runnable> arrived = links.pass(passing);
            if (timer != null && untilTimer <= untilFlow) {
                timers.remove();
                timer.action().run();
            }
            arrived.forEach(Runnable::run);
        }
        for (Rank rank : ranks) {
            for (Lane lane : Lane.values()) {
                if (rank.positions[lane.ordinal()]
                        < rank.lanes.get(lane.ordinal()).size() * steps) {
                    throw new IllegalStateException("lane " + lane + " of rank " + rank.program.rank()
                            + " waits for ever at " + head(rank, lane));
                }
            }
        }
    }

    private static Instruction head(Rank rank, Lane lane) {
        List<Instruction> queue = rank.lanes.get(lane.ordinal());
        return queue.get(rank.positions[lane.ordinal()] % queue.size());
    }

    private void startLanes(Rank rank) {
        for (Lane lane : Lane.values()) {
            int l = lane.ordinal();
            List<Instruction> queue = rank.lanes.get(l);
            if (rank.running[l] != null || rank.positions[l] == queue.size() * steps) {
                continue;
            }
            int step = rank.positions[l] / queue.size();
            Instruction head = head(rank, lane);
            boolean ready = head.after().stream().allMatch(id -> rank.done[step][id])
                    && (step == 0 || head.afterPrevious().stream().allMatch(id -> rank.done[step - 1][id]));
            if (ready) {
                Run run = new Run(rank, step, head);
                rank.running[l] = run;
                proceed(run, cost.cards().get(rank.program.rank()).launchMicroseconds() * 1e-6);
            }
        }
    }

    /// Goes on behind the calls that are done.
    ///
    /// @param launch seconds that precede the next call
    private void proceed(Run run, double launch) {
        List<Call> calls = run.instruction.calls();
        double seconds = launch;
        boolean kernels = false;
        while (run.call < calls.size() && !moves(run, calls.get(run.call))) {
            seconds += cost.seconds(run.rank.program, calls.get(run.call));
            run.call++;
            kernels = true;
        }
        if (run.start < 0 && (kernels || calls.isEmpty())) {
            run.start = now;
        }
        boolean finished = run.call == calls.size();
        if (seconds > 0) {
            later(seconds, finished ? () -> finish(run) : () -> move(run));
        } else if (finished) {
            // Not at once: the lanes are being looked through.
            later(0, () -> finish(run));
        } else {
            move(run);
        }
    }

    private void later(double seconds, Runnable action) {
        timers.add(new Timer(now + seconds, timersSet++, action));
    }

    private void finish(Run run) {
        Rank rank = run.rank;
        int lane = run.instruction.lane().ordinal();
        rank.running[lane] = null;
        rank.positions[lane]++;
        rank.done[run.step][run.instruction.id()] = true;
        rank.spans.add(new Timeline.Span(run.step, run.instruction.id(), run.instruction.lane(), run.start, now));
        stepEnds[run.step] = Math.max(stepEnds[run.step], now);
        startLanes(rank);
    }

    private static boolean moves(Run run, Call call) {
        return call.op().collective()
                || (call.op() instanceof Op.Copy && onHost(run, call, true) != onHost(run, call, false));
    }

    private static boolean onHost(Run run, Call call, boolean input) {
        List<Integer> tensors = input ? call.inputs() : call.outputs();
        return run.rank.program.tensors().get(tensors.getFirst()).host();
    }

    /// Starts a transfer, or waits for the other ranks that it needs.
    private void move(Run run) {
        Call call = run.instruction.calls().get(run.call);
        int rank = run.rank.program.rank();
        if (call.op() instanceof Op.Copy) {
            double bytes =
                    run.rank.program.tensors().get(call.outputs().getFirst()).bytes();
            Links.Flow flow = onHost(run, call, true) ? links.fromHost(rank, bytes) : links.toHost(rank, bytes);
            started(List.of(run));
            transfer(List.of(List.of(flow)), List.of(run));
            return;
        }
        List<Integer> group = Meeting.group(run.rank.program, call.op(), ranks.size());
        ArrayDeque<Gathering> open = gatherings.computeIfAbsent(Meeting.key(call.op(), group), _ -> new ArrayDeque<>());
        // A rank comes to the first meeting that it has not come to: its own are in order.
        Gathering gathering = open.stream()
                .filter(meeting -> meeting.runs().stream().noneMatch(other -> other.rank == run.rank))
                .findFirst()
                .orElse(null);
        if (gathering == null) {
            gathering = new Gathering(new Meeting(links, cost.transport(), group), new ArrayList<>());
            open.add(gathering);
        }
        gathering.runs().add(run);
        if (gathering.meeting().join(run.rank.program, call)) {
            open.remove(gathering);
            List<List<Links.Flow>> phases = gathering.meeting().phases();
            List<Run> runs = gathering.runs();
            started(runs);
            later(group.size() > 1 ? cost.transferMicroseconds() * 1e-6 : 0, () -> transfer(phases, runs));
        }
    }

    private void started(List<Run> runs) {
        for (Run run : runs) {
            if (run.start < 0) {
                run.start = now;
            }
        }
    }

    /// Moves bytes phase by phase, then goes on with the instructions whose calls these are.
    private void transfer(List<List<Links.Flow>> phases, List<Run> runs) {
        List<List<Links.Flow>> left =
                phases.stream().filter(phase -> !phase.isEmpty()).toList();
        if (left.isEmpty()) {
            for (Run run : runs) {
                run.call++;
                proceed(run, 0);
            }
        } else {
            links.start(left.getFirst(), () -> transfer(left.subList(1, left.size()), runs));
        }
    }
}
