package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.IntStream;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import tools.jackson.databind.json.JsonMapper;
import troika.graph.Op;
import troika.plan.PipelineSchedule.Action;
import troika.plan.PipelineSchedule.Event;
import troika.plan.PipelineSchedule.Phase;
import troika.tensor.DType;

class SimulatorTest {
    private static final double FAST = 1e15;
    private static final Offset<Double> EXACT = within(1e-6);
    private static final List<Integer> NONE = List.of();

    /// Cards that do a product in a second, launch for nothing, and have links of some bytes a second.
    private static CostModel cards(int ranks, double link, double host, CostModel.Transport transport) {
        CostModel.Card card = new CostModel.Card(HandMade.UNIT_FLOPS, HandMade.UNIT_FLOPS, FAST, 0, link, link, -1);
        return new CostModel(Collections.nCopies(ranks, card), List.of(), host, transport, 0);
    }

    @ParameterizedTest
    @CsvSource({
        "ONE_F_ONE_B, 1, 3, 6, 24",
        "ONE_F_ONE_B, 1, 4, 4, 21",
        "ZERO_BUBBLE, 1, 3, 6, 20",
        "ZERO_BUBBLE, 1, 4, 7, 24",
        "INTERLEAVED, 2, 3, 6, 42",
        "INTERLEAVED, 3, 2, 6, 57"
    })
    void bubblesAreTheFormulas(PipelineSchedule schedule, int chunks, int stages, int microbatches, double seconds) {
        StepProgram program = pipeline(schedule, chunks, stages, microbatches);
        Timeline timeline = Simulator.simulate(program, cards(stages, FAST, FAST, CostModel.Transport.PEER));
        double work = 3.0 * chunks * microbatches;
        double bubble = schedule == PipelineSchedule.ZERO_BUBBLE ? stages - 1 : 3.0 * (stages - 1);
        assertThat(work + bubble).isEqualTo(seconds);
        assertThat(timeline.seconds()).isCloseTo(seconds, within(0.01 * seconds));
        for (int rank = 0; rank < stages; rank++) {
            assertThat(timeline.computeSeconds(rank)).isCloseTo(work, EXACT);
            assertThat(timeline.bubbleShare(rank)).isCloseTo(bubble / seconds, within(0.01 * bubble / seconds));
        }
    }

    @ParameterizedTest
    @CsvSource({"2 1, 42", "1 2, 42", "3 1, 45", "1 3, 45", "3 2, 45", "2 3, 46", "3 2 1, 51", "1 2 3, 49", "2 2 1, 48"
    })
    void unequalStagesWithLayersInProportionStayBusy(String replicas, double most) {
        List<Integer> dataParallel =
                Arrays.stream(replicas.split(" ")).map(Integer::valueOf).toList();
        int ranks = dataParallel.stream().mapToInt(Integer::intValue).sum();
        StepProgram program = pipeline(PipelineSchedule.ONE_F_ONE_B, 1, dataParallel, 12);
        Timeline timeline = Simulator.simulate(program, cards(ranks, FAST, FAST, CostModel.Transport.PEER));
        assertThat(timeline.computeSeconds(0)).isCloseTo(3.0 * 12, EXACT);
        assertThat(timeline.seconds()).isLessThan(most + 0.01);
    }

    private static StepProgram pipeline(PipelineSchedule schedule, int chunks, int stages, int microbatches) {
        return pipeline(schedule, chunks, Collections.nCopies(stages, 1), microbatches);
    }

    /// A stage computes for as many seconds as the schedule's units times its replicas, as if it had as many layers.
    private static StepProgram pipeline(
            PipelineSchedule schedule, int chunks, List<Integer> dataParallel, int microbatches) {
        int stages = dataParallel.size();
        List<Event> order =
                PipelineSchedule.globalOrder(schedule.actions(dataParallel, chunks, microbatches), dataParallel);
        List<List<HandMade>> ranks = new ArrayList<>();
        List<HandMade> all = new ArrayList<>();
        for (int replicas : dataParallel) {
            ranks.add(new ArrayList<>());
            for (int r = 0; r < replicas; r++) {
                HandMade rank = new HandMade(all.size());
                rank.tensor(false, 1);
                all.add(rank);
                ranks.getLast().add(rank);
            }
        }
        Map<List<Object>, Integer> received = new HashMap<>();
        for (Event event : order) {
            Action action = event.action();
            HandMade own = ranks.get(event.stage()).get(event.replica());
            int replicas = dataParallel.get(event.stage());
            int m = action.microbatch() * replicas + event.replica();
            int v = action.chunk() * stages + event.stage();
            boolean forward = action.phase() == Phase.FORWARD;
            boolean weight = action.phase() == Phase.BACKWARD_WEIGHT;
            Integer needed = weight ? null : received.get(List.of(forward, v, m));
            int products = (int) (event.end() - event.start());
            int done = needed == null ? own.products(products) : own.products(products, needed);
            int to = forward ? v + 1 : v - 1;
            if (!weight && to >= 0 && to < stages * chunks) {
                HandMade peer = ranks.get(to % stages).get(m % dataParallel.get(to % stages));
                own.call(Lane.SEND, new Op.Send(peer.rank()), List.of(1), NONE, done);
                received.put(
                        List.of(forward, to, m), peer.call(Lane.RECEIVE, new Op.Receive(own.rank()), NONE, List.of(1)));
            }
        }
        return HandMade.program(all);
    }

    @Test
    void copiesShareALink() {
        HandMade rank = new HandMade(0);
        int host = rank.tensor(true, 250);
        int device = rank.tensor(false, 250);
        int half = rank.tensor(true, 125);
        int halfDevice = rank.tensor(false, 125);
        rank.call(Lane.UPLOAD, new Op.Copy(), List.of(host), List.of(device));
        rank.call(Lane.COMMUNICATION, new Op.Copy(), List.of(half), List.of(halfDevice));
        rank.call(Lane.DOWNLOAD, new Op.Copy(), List.of(device), List.of(host));
        Timeline timeline =
                Simulator.simulate(HandMade.program(rank), cards(1, 1000, FAST, CostModel.Transport.STAGED));
        // 1000 and 500 bytes down at 500 a second each, then the rest alone; up has a link of its own.
        assertThat(end(timeline, 0, 0)).isCloseTo(1.5, EXACT);
        assertThat(end(timeline, 0, 1)).isCloseTo(1, EXACT);
        assertThat(end(timeline, 0, 2)).isCloseTo(1, EXACT);
    }

    /// Two ranks gather 250 bytes of each other: a second of bytes at 250 a second, and what a transfer takes beside
    /// them.
    @Test
    void aTransferTakesTimeBesideItsBytes() {
        List<HandMade> ranks = IntStream.range(0, 2).mapToObj(HandMade::new).toList();
        for (HandMade rank : ranks) {
            rank.call(
                    Lane.COMMUNICATION,
                    new Op.AllGather("data"),
                    List.of(rank.tensor(false, 250)),
                    List.of(rank.tensor(false, 500)));
        }
        CostModel fast = cards(2, 1000, FAST, CostModel.Transport.PEER);
        CostModel late = new CostModel(fast.cards(), fast.roots(), FAST, fast.transport(), 500_000);
        StepProgram program = HandMade.program(ranks);
        double bytes = Simulator.simulate(program, fast).seconds();
        Timeline timeline = Simulator.simulate(program, late);
        assertThat(timeline.seconds()).isCloseTo(bytes + 0.5, EXACT);
        assertThat(timeline.communicationSeconds(0)).isCloseTo(bytes + 0.5, EXACT);
    }

    /// Rank 1 comes two seconds late to what both need, and so does the transfer.
    @Test
    void aMeasuredTransferBeginsWhenTheLastRankCame() {
        List<HandMade> ranks = IntStream.range(0, 2).mapToObj(HandMade::new).toList();
        for (HandMade rank : ranks) {
            rank.products(1);
            rank.call(
                    Lane.COMMUNICATION,
                    new Op.AllGather("data"),
                    List.of(rank.tensor(false, 250)),
                    List.of(rank.tensor(false, 500)));
        }
        List<List<Timeline.Span>> arrivals = List.of(
                List.of(new Timeline.Span(0, 0, Lane.COMPUTE, 0, 4), new Timeline.Span(0, 1, Lane.COMMUNICATION, 1, 5)),
                List.of(
                        new Timeline.Span(0, 0, Lane.COMPUTE, 0, 3),
                        new Timeline.Span(0, 1, Lane.COMMUNICATION, 3, 5)));
        Timeline timeline = Timeline.measured(HandMade.program(ranks), arrivals);
        assertThat(timeline.communicationSeconds(0)).isCloseTo(2, EXACT);
        assertThat(timeline.hiddenShare(0)).isCloseTo(0.5, EXACT);
        assertThat(timeline.hiddenShare(1)).isCloseTo(0, EXACT);
        assertThat(timeline.stepSeconds()).isCloseTo(5, EXACT);
    }

    @Test
    void cardsShareARootAndTheHostsMemory() {
        CostModel.Card card = new CostModel.Card(1, 1, FAST, 0, 1000, 1000, 0);
        List<HandMade> ranks = IntStream.range(0, 3).mapToObj(HandMade::new).toList();
        for (HandMade rank : ranks) {
            rank.call(Lane.UPLOAD, new Op.Copy(), List.of(rank.tensor(true, 250)), List.of(rank.tensor(false, 250)));
        }
        StepProgram program = HandMade.program(ranks);
        List<CostModel.Card> cards = Collections.nCopies(3, card);
        CostModel root = new CostModel(cards, List.of(1500.0), FAST, CostModel.Transport.STAGED, 0);
        assertThat(Simulator.simulate(program, root).seconds()).isCloseTo(2, EXACT);
        CostModel host = new CostModel(cards, List.of(FAST), 600, CostModel.Transport.STAGED, 0);
        assertThat(Simulator.simulate(program, host).seconds()).isCloseTo(5, EXACT);
    }

    @Test
    void collectivesMoveTheirBytes() {
        // Shards of 400, 800 and 1200 bytes of 2400; what goes up longest, or comes down, takes the time.
        long[] elements = {100, 200, 300};
        assertThat(collective(elements, false, CostModel.Transport.STAGED)).isCloseTo(2.0, EXACT);
        assertThat(collective(elements, true, CostModel.Transport.STAGED)).isCloseTo(2.4, EXACT);
        // Two flows of 400 bytes leave and two enter each card.
        long[] equal = {100, 100, 100};
        assertThat(collective(equal, false, CostModel.Transport.PEER)).isCloseTo(0.8, EXACT);
        assertThat(collective(equal, true, CostModel.Transport.PEER)).isCloseTo(0.8, EXACT);
        assertThat(collective(new long[] {100}, true, CostModel.Transport.STAGED))
                .isZero();
    }

    private static double collective(long[] elements, boolean scatter, CostModel.Transport transport) {
        List<HandMade> ranks =
                IntStream.range(0, elements.length).mapToObj(HandMade::new).toList();
        long all =
                IntStream.range(0, elements.length).mapToLong(i -> elements[i]).sum();
        for (int i = 0; i < elements.length; i++) {
            HandMade rank = ranks.get(i);
            int shard = rank.tensor(false, elements[i]);
            int full = rank.tensor(false, all);
            Op op = scatter ? new Op.ReduceScatter("data") : new Op.AllGather("data");
            rank.call(Lane.COMMUNICATION, op, List.of(scatter ? full : shard), List.of(scatter ? shard : full));
        }
        return Simulator.simulate(HandMade.program(ranks), cards(elements.length, 1000, FAST, transport))
                .seconds();
    }

    @Test
    void anAxisHasItsOwnRanks() {
        List<HandMade> ranks = IntStream.range(0, 4).mapToObj(HandMade::new).toList();
        for (int i = 0; i < 4; i++) {
            HandMade rank = ranks.get(i);
            rank.axis("data", i % 2 == 0 ? List.of(0, 2) : List.of(1, 3));
            int before = rank.products(i);
            rank.call(Lane.COMMUNICATION, new Op.AllReduce("data"), NONE, List.of(rank.tensor(false, 250)), before);
        }
        Timeline timeline =
                Simulator.simulate(HandMade.program(ranks), cards(4, 1000, FAST, CostModel.Transport.STAGED));
        // Halves of 1000 bytes go up and at the same time down, and once more; they start when both ranks are there.
        assertThat(end(timeline, 0, 1)).isCloseTo(2 + 1, EXACT);
        assertThat(end(timeline, 2, 1)).isCloseTo(2 + 1, EXACT);
        assertThat(end(timeline, 1, 1)).isCloseTo(3 + 1, EXACT);
        assertThat(span(timeline, 0, 1).start()).isCloseTo(2, EXACT);
    }

    @Test
    void aTransferIsHiddenWhileTheRankComputes() {
        HandMade left = new HandMade(0);
        HandMade right = new HandMade(1);
        int tensor = left.tensor(false, 250);
        right.tensor(false, 250);
        int first = left.products(1);
        left.products(1);
        left.call(Lane.SEND, new Op.Send(1), List.of(tensor), NONE, first);
        int arrived = right.call(Lane.RECEIVE, new Op.Receive(0), NONE, List.of(tensor));
        right.products(1, arrived);
        Timeline timeline =
                Simulator.simulate(HandMade.program(left, right), cards(2, 500, FAST, CostModel.Transport.PEER));
        // On its way from 1 to 3, with the sender at work until 2 and the receiver from 3.
        assertThat(timeline.seconds()).isCloseTo(4, EXACT);
        assertThat(timeline.communicationSeconds(0)).isCloseTo(2, EXACT);
        assertThat(timeline.hiddenShare(0)).isCloseTo(0.5, EXACT);
        assertThat(timeline.hiddenShare(1)).isCloseTo(0, EXACT);
        assertThat(timeline.bubbleShare(0)).isCloseTo(0.5, EXACT);
        Timeline staged =
                Simulator.simulate(HandMade.program(left, right), cards(2, 500, FAST, CostModel.Transport.STAGED));
        assertThat(staged.seconds()).isCloseTo(4, EXACT);
    }

    @Test
    void stepsOverlapWhereNothingForbidsIt() {
        StepProgram free = backToBack(false);
        StepProgram bound = backToBack(true);
        CostModel cost = cards(1, 1000, FAST, CostModel.Transport.STAGED);
        assertThat(Simulator.simulate(free, cost, 4).stepSeconds()).isCloseTo(2, EXACT);
        assertThat(Simulator.simulate(bound, cost, 4).stepSeconds()).isCloseTo(3, EXACT);
        assertThat(Simulator.simulate(free, cost).stepSeconds()).isCloseTo(3, EXACT);
    }

    /// Two seconds of products, then one of a copy, which the next step may have to wait for.
    private static StepProgram backToBack(boolean bound) {
        HandMade rank = new HandMade(0);
        Call product = new Call(new Op.Linear(), List.of(0, 0), List.of(0));
        int device = rank.tensor(false, 250);
        int host = rank.tensor(true, 250);
        int products = rank.emit(Lane.COMPUTE, NONE, bound ? List.of(1) : NONE, List.of(product, product));
        rank.call(Lane.DOWNLOAD, new Op.Copy(), List.of(device), List.of(host), products);
        return HandMade.program(rank);
    }

    @Test
    void launchesAndBytesTakeTime() {
        HandMade rank = new HandMade(0);
        rank.call(Lane.COMPUTE, new Op.Add(), List.of(rank.tensor(false, 250)), List.of(rank.tensor(false, 250)));
        rank.products(1);
        CostModel.Card card = new CostModel.Card(HandMade.UNIT_FLOPS, HandMade.UNIT_FLOPS, 1e6, 1000, 1, 1, -1);
        CostModel cost = new CostModel(List.of(card), List.of(), 1, CostModel.Transport.PEER, 0);
        // 3 × 1000 bytes at a million a second and a millisecond, then a second and one more.
        Timeline timeline = Simulator.simulate(HandMade.program(rank), cost);
        assertThat(end(timeline, 0, 0)).isCloseTo(0.004, within(1e-9));
        assertThat(end(timeline, 0, 1)).isCloseTo(1.005, within(1e-9));
    }

    @Test
    void whatCannotGoOnIsNamed() {
        HandMade left = new HandMade(0);
        left.call(Lane.RECEIVE, new Op.Receive(1), NONE, List.of(left.tensor(false, 1)));
        StepProgram alone = HandMade.program(left, new HandMade(1));
        CostModel cost = cards(2, 1, 1, CostModel.Transport.PEER);
        assertThatThrownBy(() -> Simulator.simulate(alone, cost))
                .isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("RECEIVE of rank 0");
        HandMade right = new HandMade(1);
        right.call(Lane.SEND, new Op.Send(0), List.of(right.tensor(false, 2)), NONE);
        assertThatThrownBy(() -> Simulator.simulate(HandMade.program(left, right), cost))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("sends 8 bytes");
    }

    @Test
    void aCompiledProgramRunsThrough(@TempDir Path folder) throws Exception {
        PlanOptions options = Programs.options(DType.BF16, 6, 2, 1, false);
        StepProgram program = Programs.plan(3, options).train();
        Timeline wide = Simulator.simulate(program, CostModel.rtx4090(List.of(16, 16, 16)), 3);
        Timeline narrow = Simulator.simulate(program, CostModel.rtx4090(List.of(8, 8, 4)), 3);
        assertThat(wide.stepSeconds()).isPositive().isLessThan(narrow.stepSeconds());
        for (int rank = 0; rank < 3; rank++) {
            List<Instruction> instructions = program.ranks().get(rank).instructions();
            assertThat(wide.ranks().get(rank)).hasSize(3 * instructions.size());
            Map<List<Integer>, Timeline.Span> spans = new HashMap<>();
            wide.ranks().get(rank).forEach(span -> spans.put(List.of(span.step(), span.instruction()), span));
            for (Timeline.Span span : wide.ranks().get(rank)) {
                for (int needed : instructions.get(span.instruction()).after()) {
                    assertThat(Objects.requireNonNull(spans.get(List.of(span.step(), needed)))
                                    .end())
                            .isLessThanOrEqualTo(span.start());
                }
            }
        }
        Path file = folder.resolve("trace.json");
        narrow.write(file);
        Map<?, ?> trace = JsonMapper.shared().readValue(Files.readString(file), Map.class);
        List<Object> complete = new ArrayList<>();
        ((List<?>) Objects.requireNonNull(trace.get("traceEvents")))
                .forEach(event -> complete.add(((Map<?, ?>) event).get("ph")));
        assertThat(complete.stream().filter("X"::equals))
                .hasSize(narrow.ranks().stream().mapToInt(List::size).sum());
    }

    private static Timeline.Span span(Timeline timeline, int rank, int instruction) {
        return timeline.ranks().get(rank).stream()
                .filter(span -> span.instruction() == instruction)
                .findFirst()
                .orElseThrow();
    }

    private static double end(Timeline timeline, int rank, int instruction) {
        return span(timeline, rank, instruction).end();
    }
}
