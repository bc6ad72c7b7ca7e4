package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;
import troika.plan.PipelineSchedule.Action;
import troika.plan.PipelineSchedule.Event;
import troika.plan.PipelineSchedule.Phase;
import troika.tensor.UserException;

class PipelineScheduleTest {
    private record Step(Phase phase, int virtualStage, int microbatch) {}

    @Test
    void wordsNameSchedules() {
        for (PipelineSchedule schedule : PipelineSchedule.values()) {
            assertThat(PipelineSchedule.of(schedule.word())).isSameAs(schedule);
        }
        assertThatThrownBy(() -> PipelineSchedule.of("gpipe"))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("gpipe")
                .hasMessageContaining("zero-bubble");
        assertThatThrownBy(() -> PipelineSchedule.ONE_F_ONE_B.actions(List.of(1, 1), 2, 4))
                .isInstanceOf(UserException.class);
        assertThatThrownBy(() -> PipelineSchedule.INTERLEAVED.actions(List.of(2, 1), 2, 4))
                .isInstanceOf(UserException.class);
    }

    @Test
    void fourStagesOfOneForwardOneBackward() {
        List<List<Action>> actions = PipelineSchedule.ONE_F_ONE_B.actions(List.of(1, 1, 1, 1), 1, 6);
        assertThat(text(actions.get(0))).isEqualTo("F0 F1 F2 F3 B0 F4 B1 F5 B2 B3 B4 B5");
        assertThat(text(actions.get(3))).isEqualTo("F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5");
    }

    @Test
    void zeroBubblePutsWeightsOff() {
        List<List<Action>> actions = PipelineSchedule.ZERO_BUBBLE.actions(List.of(1, 1, 1), 1, 4);
        assertThat(text(actions.get(0))).isEqualTo("F0 F1 F2 I0 W0 F3 I1 W1 I2 W2 I3 W3");
        assertThat(text(actions.get(2))).isEqualTo("F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3");
    }

    @Test
    void aStageOfTwoReplicasFeedsOne() {
        List<List<Action>> actions = PipelineSchedule.ONE_F_ONE_B.actions(List.of(2, 1), 1, 8);
        assertThat(text(actions.get(0))).isEqualTo("F0 F1 B0 F2 B1 F3 B2 B3");
        assertThat(text(actions.get(1))).isEqualTo("F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7");
    }

    @Test
    void megatronsOrderOfTwoChunks() {
        List<List<Action>> actions = PipelineSchedule.INTERLEAVED.actions(List.of(1, 1), 2, 4);
        assertThat(text(actions.get(0))).isEqualTo("F0 F1 F0' F1' F2 B0' F3 B1' F2' B0 F3' B1 B2' B3' B2 B3");
        assertThat(text(actions.get(1))).isEqualTo("F0 F1 F0' B0' F1' B1' F2 B0 F3 B1 F2' B2' F3' B3' B2 B3");
    }

    private static String text(List<Action> actions) {
        return String.join(
                " ",
                actions.stream()
                        .map(action -> switch (action.phase()) {
                                    case FORWARD -> "F";
                                    case BACKWARD -> "B";
                                    case BACKWARD_INPUT -> "I";
                                    case BACKWARD_WEIGHT -> "W";
                                }
                                + action.microbatch()
                                + "'".repeat(action.chunk()))
                        .toList());
    }

    @Property(tries = 300)
    void anyReplicasOfAnyStagesFinish(
            @ForAll @Size(min = 1, max = 5) List<@IntRange(min = 1, max = 3) Integer> dataParallel,
            @ForAll @IntRange(min = 1, max = 5) int rounds,
            @ForAll boolean zeroBubble) {
        PipelineSchedule schedule = zeroBubble ? PipelineSchedule.ZERO_BUBBLE : PipelineSchedule.ONE_F_ONE_B;
        int microbatches = rounds * multiple(dataParallel);
        List<List<Action>> actions = schedule.actions(dataParallel, 1, microbatches);
        check(actions, dataParallel, 1, microbatches, zeroBubble);
        boolean equal = dataParallel.stream().distinct().count() == 1;
        int stages = dataParallel.size();
        for (int s = 0; s < stages; s++) {
            // Rounding costs less than a microbatch of each replica.
            int counted = 2 * sum(dataParallel.subList(zeroBubble ? 0 : s, stages));
            int most = equal ? stages - (zeroBubble ? 0 : s) : Math.ceilDiv(counted, dataParallel.get(s));
            assertThat(inFlight(actions.get(s))).isLessThanOrEqualTo(most);
        }
    }

    @Property(tries = 300)
    void anyNumberOfMicrobatchesIsInterleaved(
            @ForAll @IntRange(min = 1, max = 5) int stages,
            @ForAll @IntRange(min = 1, max = 3) int replicas,
            @ForAll @IntRange(min = 1, max = 4) int chunks,
            @ForAll @IntRange(min = 1, max = 17) int microbatches) {
        List<Integer> dataParallel = Collections.nCopies(stages, replicas);
        List<List<Action>> actions =
                PipelineSchedule.INTERLEAVED.actions(dataParallel, chunks, microbatches * replicas);
        List<Event> order = check(actions, dataParallel, chunks, microbatches * replicas, false);
        List<Event> plain = PipelineSchedule.globalOrder(
                PipelineSchedule.ONE_F_ONE_B.actions(dataParallel, 1, microbatches * replicas), dataParallel);
        // An action takes a c-th of what it would in one chunk.
        assertThat(order.getLast().end())
                .isLessThanOrEqualTo(chunks * plain.getLast().end());
        if (microbatches % stages == 0) {
            assertThat(order.getLast().end()).isEqualTo(3L * chunks * microbatches + 3L * (stages - 1));
            for (int s = 0; s < stages; s++) {
                assertThat(inFlight(actions.get(s)))
                        .isLessThanOrEqualTo(2 * (stages - s - 1) + (chunks - 1) * stages + 1);
            }
        }
    }

    @Property(tries = 100)
    void bubblesAreTheFormulas(@ForAll @IntRange(min = 1, max = 6) int stages, @ForAll @IntRange(max = 12) int beyond) {
        List<Integer> dataParallel = Collections.nCopies(stages, 1);
        int microbatches = stages + beyond;
        assertThat(end(PipelineSchedule.ONE_F_ONE_B, dataParallel, microbatches))
                .isEqualTo(3 * microbatches + 3 * (stages - 1));
        assertThat(end(PipelineSchedule.ZERO_BUBBLE, dataParallel, microbatches))
                .isEqualTo(3 * microbatches + stages - 1);
    }

    private static long end(PipelineSchedule schedule, List<Integer> dataParallel, int microbatches) {
        return PipelineSchedule.globalOrder(schedule.actions(dataParallel, 1, microbatches), dataParallel)
                .getLast()
                .end();
    }

    @Test
    void aCircleIsTold() {
        Action forward = new Action(Phase.FORWARD, 0, 0);
        Action backward = new Action(Phase.BACKWARD, 0, 0);
        assertThatThrownBy(() -> PipelineSchedule.globalOrder(
                        List.of(List.of(backward, forward), List.of(forward, backward)), List.of(1, 1)))
                .isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("stage 0");
    }

    /// Plays the lists: each step happens once, and behind what it needs, in every replica's own order.
    private static List<Event> check(
            List<List<Action>> actions, List<Integer> dataParallel, int chunks, int microbatches, boolean split) {
        int stages = dataParallel.size();
        List<Event> order = PipelineSchedule.globalOrder(actions, dataParallel);
        Set<Step> done = new HashSet<>();
        List<List<List<Action>>> own = new ArrayList<>();
        for (int replicas : dataParallel) {
            own.add(new ArrayList<>());
            for (int r = 0; r < replicas; r++) {
                own.getLast().add(new ArrayList<>());
            }
        }
        for (Event event : order) {
            Action action = event.action();
            own.get(event.stage()).get(event.replica()).add(action);
            int m = action.microbatch() * dataParallel.get(event.stage()) + event.replica();
            int v = action.chunk() * stages + event.stage();
            Phase backward = split ? Phase.BACKWARD_INPUT : Phase.BACKWARD;
            if (action.phase() == Phase.FORWARD) {
                assertThat(v == 0 || done.contains(new Step(Phase.FORWARD, v - 1, m)))
                        .isTrue();
            } else if (action.phase() == backward) {
                assertThat(done).contains(new Step(Phase.FORWARD, v, m));
                assertThat(v == stages * chunks - 1 || done.contains(new Step(backward, v + 1, m)))
                        .isTrue();
            } else {
                assertThat(action.phase()).isEqualTo(Phase.BACKWARD_WEIGHT);
                assertThat(done).contains(new Step(Phase.BACKWARD_INPUT, v, m));
            }
            assertThat(done.add(new Step(action.phase(), v, m))).isTrue();
        }
        assertThat(done).hasSize(stages * chunks * microbatches * (split ? 3 : 2));
        for (int s = 0; s < stages; s++) {
            assertThat(own.get(s)).containsOnly(actions.get(s));
        }
        return order;
    }

    /// The most microbatches whose activations a replica keeps.
    private static int inFlight(List<Action> actions) {
        boolean split = actions.stream().anyMatch(action -> action.phase() == Phase.BACKWARD_WEIGHT);
        int most = 0;
        int now = 0;
        for (Action action : actions) {
            if (action.phase() == Phase.FORWARD) {
                now++;
            } else if (action.phase() == (split ? Phase.BACKWARD_WEIGHT : Phase.BACKWARD)) {
                now--;
            }
            most = Math.max(most, now);
        }
        return most;
    }

    private static int sum(List<Integer> numbers) {
        return numbers.stream().mapToInt(Integer::intValue).sum();
    }

    private static int multiple(List<Integer> numbers) {
        int multiple = 1;
        while (!divides(numbers, multiple)) {
            multiple++;
        }
        return multiple;
    }

    private static boolean divides(List<Integer> numbers, int multiple) {
        return numbers.stream().allMatch(number -> multiple % number == 0);
    }
}
