package troika.plan;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import troika.plan.PipelineSchedule.Action;
import troika.plan.PipelineSchedule.Event;
import troika.plan.PipelineSchedule.Phase;

/// Plays the actions of a pipeline's replicas, each in its own order and as soon as what it needs is there.
final class PipelinePlay {
    private static final long NOT_YET = -1;

    /// By virtual stage and microbatch of the step: when it is done.
    private final long[][] forward;

    private final long[][] backward;
    private final int stages;
    private final List<Event> events = new ArrayList<>();

    PipelinePlay(List<List<Action>> actions, List<Integer> dataParallel) {
        stages = actions.size();
        int chunks = 1;
        int microbatches = 0;
        for (int stage = 0; stage < stages; stage++) {
            for (Action action : actions.get(stage)) {
                chunks = Math.max(chunks, action.chunk() + 1);
                microbatches = Math.max(microbatches, (action.microbatch() + 1) * dataParallel.get(stage));
            }
        }
        forward = times(stages * chunks, microbatches);
        backward = times(stages * chunks, microbatches);
        play(actions, dataParallel);
    }

    private static long[][] times(int rows, int columns) {
        long[][] times = new long[rows][columns];
        for (long[] row : times) {
            Arrays.fill(row, NOT_YET);
        }
        return times;
    }

    /// By replica, in its own order.
    List<Event> events() {
        return events;
    }

    private static int commonDivisor(int a, int b) {
        return b == 0 ? a : commonDivisor(b, a % b);
    }

    private void play(List<List<Action>> actions, List<Integer> dataParallel) {
        int replicas = dataParallel.stream().mapToInt(Integer::intValue).max().orElse(1);
        int divisor = dataParallel.stream().reduce(0, PipelinePlay::commonDivisor);
        int[][] done = new int[stages][replicas];
        long[][] free = new long[stages][replicas];
        boolean moved = true;
        while (moved) {
            moved = false;
            for (int s = 0; s < stages; s++) {
                for (int r = 0; r < dataParallel.get(s); r++) {
                    while (done[s][r] < actions.get(s).size()) {
                        Action action = actions.get(s).get(done[s][r]);
                        int microbatch = action.microbatch() * dataParallel.get(s) + r;
                        long ready = ready(action, s, microbatch);
                        if (ready == NOT_YET) {
                            break;
                        }
                        long start = Math.max(ready, free[s][r]);
                        long end = start + (long) action.phase().units() * dataParallel.get(s) / divisor;
                        Event event = new Event(s, r, action, start, end);
                        events.add(event);
                        note(event, microbatch);
                        free[s][r] = event.end();
                        done[s][r]++;
                        moved = true;
                    }
                }
            }
        }
        for (int s = 0; s < stages; s++) {
            for (int r = 0; r < dataParallel.get(s); r++) {
                if (done[s][r] < actions.get(s).size()) {
                    throw new IllegalStateException("replica " + r + " of stage " + s + " waits for ever to start "
                            + actions.get(s).get(done[s][r]));
                }
            }
        }
    }

    private int virtual(Action action, int stage) {
        return action.chunk() * stages + stage;
    }

    private long ready(Action action, int stage, int microbatch) {
        int v = virtual(action, stage);
        return switch (action.phase()) {
            case FORWARD -> v == 0 ? 0 : forward[v - 1][microbatch];
            case BACKWARD, BACKWARD_INPUT -> {
                long own = forward[v][microbatch];
                long next = v == backward.length - 1 ? own : backward[v + 1][microbatch];
                yield own == NOT_YET || next == NOT_YET ? NOT_YET : Math.max(own, next);
            }
            case BACKWARD_WEIGHT -> backward[v][microbatch];
        };
    }

    private void note(Event event, int microbatch) {
        int v = virtual(event.action(), event.stage());
        if (event.action().phase() == Phase.FORWARD) {
            forward[v][microbatch] = event.end();
        } else if (event.action().phase() != Phase.BACKWARD_WEIGHT) {
            backward[v][microbatch] = event.end();
        }
    }
}
