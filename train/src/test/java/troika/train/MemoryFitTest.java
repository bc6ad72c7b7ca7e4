package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Collections;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.graph.Model;
import troika.model.DeepSeekLlm;
import troika.plan.Compiler;
import troika.plan.Layout;
import troika.plan.MemoryPlan;
import troika.plan.Parallelism;
import troika.plan.PipelineSchedule;
import troika.plan.PlanOptions;
import troika.plan.TensorSpec;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.DeviceMemory;
import troika.tensor.UserException;
import troika.train.MemoryFit.Card;
import troika.train.MemoryFit.Choice;
import troika.train.config.Recompute;
import troika.train.config.Sharing;

class MemoryFitTest {
    private static final String DEVICE = "cuda:0 (a card)";
    private static final long OVERHEAD = 1L << 20;
    private static final int BATCH = 12;
    private static final Choice CHOSEN = choice(Layout.dataParallel(1), 1, Recompute.NONE);

    private final Model model = DeepSeekLlm.of(Runs.config(false), 64);

    private static Choice choice(Layout layout, int accumulation, Recompute recompute) {
        Sharing sharing = new Sharing(layout, 0, PipelineSchedule.ONE_F_ONE_B, 1, false, DType.F32, true, null, 1);
        return new Choice(sharing, accumulation, recompute);
    }

    private TrainingPlan plan(Choice choice) {
        return plan(choice, Parallelism.zero(0));
    }

    private TrainingPlan plan(Choice choice, Parallelism parallelism) {
        PlanOptions options = new PlanOptions(
                DType.BF16,
                64,
                BATCH,
                choice.accumulation(),
                parallelism,
                choice.recompute() == Recompute.LAYER,
                choice.recompute() == Recompute.ELEMENTWISE,
                false,
                DType.F32,
                0.9F,
                0.999F,
                1e-8F,
                0,
                1,
                1 << 20,
                1 << 14);
        return new Compiler(_ -> model, choice.sharing().layout(), options).training();
    }

    private long total(Choice choice) {
        return MemoryFit.largest(plan(choice)).total();
    }

    /// A card on which exactly so much fits; a quarter of the overhead is in use already.
    private static DeviceMemory card(long arena) {
        return new DeviceMemory(OVERHEAD / 4, arena + OVERHEAD - OVERHEAD / 4, OVERHEAD);
    }

    private void check(DeviceMemory memory) {
        new MemoryFit(CHOSEN, BATCH, this::plan)
                .checkCards(plan(CHOSEN), List.of(new Card(DEVICE, List.of(0), memory)));
    }

    @Test
    void whatFitsIsNotRefused() {
        check(card(total(CHOSEN)));
        check(new DeviceMemory(0, Long.MAX_VALUE, 0));
    }

    @ParameterizedTest
    @CsvSource({
        "1, ELEMENTWISE, --recompute elementwise",
        "1, LAYER, --recompute layer",
        "2, NONE, --per-device-train-batch-size 6 --gradient-accumulation-steps 2",
        "12, LAYER, --recompute layer --per-device-train-batch-size 1 --gradient-accumulation-steps 12",
    })
    void theFirstThatFitsIsNamed(int accumulation, Recompute recompute, String words) {
        Choice fitting = choice(Layout.dataParallel(1), accumulation, recompute);
        String message = refusal(card(total(fitting)));
        assertThat(message)
                .startsWith("The run needs ")
                .contains(" on cuda:0 (a card) (")
                .contains(" free: give ");
        // Something that is tried earlier may need as little.
        String given = message.substring(message.indexOf("give ") + 5, message.indexOf(", with which"));
        assertThat(given).isEqualTo(words);
        assertThat(message).matches(".*, with which it needs [0-9.]+ GiB\\.");
    }

    @Test
    void whereNothingFitsTheLeastIsNamed() {
        assertThat(refusal(card(1 << 20)))
                .contains(" 0.00 GiB free: even --recompute layer --per-device-train-batch-size 1"
                        + " --gradient-accumulation-steps 12 would need ")
                .endsWith(", so use a smaller model, shorter sequences or --optimizer-states bf16.");
    }

    /// What each choice takes is made up: only what is asked for is looked at.
    @ParameterizedTest
    @CsvSource({
        "3, 0-2:dp3, 2, 1, ELEMENTWISE, --recompute elementwise",
        "3, 0-2:dp3, 2, 1, NONE, --zero-stage 2",
        "3, 0-2:dp3, 3, 1, NONE, --zero-stage 3",
        "3, 0 | 1 | 2, 1, 3, NONE, --pipeline-parallel 3 --gradient-accumulation-steps 3",
        "3, 0-2:dp3, 3, 1, LAYER, --zero-stage 3 --recompute layer",
        "3, 0-2:dp3, 2, 2, LAYER, --zero-stage 2 --recompute layer --per-device-train-batch-size 2"
                + " --gradient-accumulation-steps 2",
    })
    void ranksMayShareInAnotherWay(
            int ranks, String layout, int zero, int accumulation, Recompute recompute, String words) {
        TrainingPlan any = plan(CHOSEN);
        Choice chosen = choice(Layout.dataParallel(ranks), 1, Recompute.NONE);
        MemoryFit fit = new MemoryFit(chosen, 12, choice -> {
            Sharing sharing = choice.sharing();
            boolean fits = sharing.layout().toString().equals(layout)
                    && Math.max(1, sharing.zeroStage()) == (recompute == Recompute.ELEMENTWISE ? 1 : zero)
                    && choice.accumulation() == accumulation
                    && choice.recompute() == recompute;
            if (sharing.layout().stages().size() > 1 && accumulation == 1) {
                throw new UserException("This model has no stages.");
            }
            return with(any, fits ? 100 : 200, ranks);
        });
        // The ranks share a card, so that 300 are for all three.
        assertThatThrownBy(() -> fit.checkCards(with(any, 200, ranks), List.of(card(DEVICE, 300, 0, 1, 2))))
                .isInstanceOf(UserException.class)
                .hasMessageContaining(" for its 3 ranks, which has ")
                .hasMessageContaining(": give " + words + ", with which it needs ");
        fit.checkCards(with(any, 200, ranks), List.of(card(DEVICE, 300, 1)));
    }

    /// In turns, tensor-parallel ranks have two microbatches' activations.
    @Test
    void oneMicrobatchAtATimeIsOneOfTheWays() {
        Choice inTurns = choice(Layout.grid(1, 2, 1), 4, Recompute.NONE);
        Choice single = new Choice(inTurns.sharing().withoutOverlap(), 4, Recompute.NONE);
        Function<Choice, TrainingPlan> compiler =
                choice -> plan(choice, choice.sharing().parallelism(1, 1, choice.accumulation()));
        List<Card> cards = List.of(
                new Card(
                        "a card",
                        List.of(0),
                        card(MemoryFit.largest(compiler.apply(single)).total())),
                new Card("another", List.of(1), card(1L << 40)));
        new MemoryFit(single, BATCH, compiler).checkCards(compiler.apply(single), cards);
        assertThatThrownBy(() -> new MemoryFit(inTurns, BATCH, compiler).checkCards(compiler.apply(inTurns), cards))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("free: give --overlap off, with which it needs ");
    }

    /// Ranks 0 and 1 with half of rank 0's share on cards of different size.
    @Test
    void cardsAreJudgedByTheirOwnRanks() {
        TrainingPlan any = plan(CHOSEN);
        Choice chosen = choice(Layout.dataParallel(2).withShares(List.of(1.0, 0.5)), 1, Recompute.NONE);
        Card large = card("cuda:0 (large)", 200, 0);
        Card small = card("cuda:1 (small)", 100, 1);
        MemoryFit unchangeable = new MemoryFit(chosen, 12, _ -> {
            throw new UserException("Nothing else is possible.");
        });
        unchangeable.checkCards(with(any, List.of(200L, 100L)), List.of(large, small));
        assertThatThrownBy(() -> unchangeable.checkCards(with(any, List.of(150L, 101L)), List.of(large, small)))
                .isInstanceOf(UserException.class)
                .hasMessageContaining(" on cuda:1 (small), which has ")
                .hasMessageContaining(": neither recomputation nor smaller microbatches would help");
        // Recomputation would move what rank 0 needs less to rank 1.
        MemoryFit fit = new MemoryFit(chosen, 12, choice -> switch (choice.recompute()) {
            case NONE -> with(any, List.of(1L << 40, 1L << 40));
            case ELEMENTWISE -> with(any, List.of(100L, 2L << 30));
            case LAYER -> with(any, choice.accumulation() == 1 ? List.of(190L, 100L) : List.of(1L, 1L));
        });
        assertThatThrownBy(() -> fit.checkCards(with(any, List.of(3L << 30, 100L)), List.of(large, small)))
                .hasMessageContaining(" on cuda:0 (large), which has ")
                .hasMessageContaining(": give --recompute layer, with which");
        MemoryFit hopeless = new MemoryFit(
                chosen,
                12,
                choice -> with(
                        any,
                        choice.recompute() == Recompute.ELEMENTWISE ? List.of(100L, 2L << 30) : List.of(1L << 40, 1L)));
        assertThatThrownBy(() -> hopeless.checkCards(with(any, List.of(3L << 30, 100L)), List.of(large, small)))
                .hasMessageContaining("even --recompute elementwise would need 2.00 GiB on cuda:1 (small), so use");
    }

    private static Card card(String name, long free, Integer... ranks) {
        return new Card(name, List.of(ranks), new DeviceMemory(0, free, 0));
    }

    private static TrainingPlan with(TrainingPlan plan, long arena, int ranks) {
        return with(plan, Collections.nCopies(ranks, arena));
    }

    /// @param arenas by rank
    private static TrainingPlan with(TrainingPlan plan, List<Long> arenas) {
        Map<TensorSpec.Role, Long> roles = new EnumMap<>(TensorSpec.Role.class);
        return new TrainingPlan(
                plan.train(),
                plan.evaluate(),
                plan.layout(),
                plan.groups(),
                arenas.stream().map(arena -> new MemoryPlan(0, roles, 0, arena)).toList(),
                plan.microbatches());
    }

    private String refusal(DeviceMemory memory) {
        String[] message = new String[1];
        assertThatThrownBy(() -> check(memory))
                .isInstanceOfSatisfying(UserException.class, e -> message[0] = e.getMessage());
        return message[0];
    }

    @Test
    void moreThanTheOverheadIsSaid() {
        assertThat(MemoryFit.excess(3L << 30, DEVICE, new DeviceMemory(4L << 30, 0, 1L << 30)))
                .isNull();
        assertThat(MemoryFit.excess(3L << 30, DEVICE, new DeviceMemory((4L << 30) + 1, 0, 1L << 30)))
                .isEqualTo("On cuda:0 (a card) this process uses 1.00 GiB beside its arena of 3.00 GiB, more than the"
                        + " 1.00 GiB that are allowed for.");
        assertThat(MemoryFit.excess(0, "cpu:0", new DeviceMemory(1L << 40, Long.MAX_VALUE, 0)))
                .isNull();
    }

    /// Each of the ranks that share a card is told a third of it.
    @Test
    void ranksThatShareACardHaveAllOfItTogether() {
        DeviceMemory third = new DeviceMemory(2, 30, 7);
        assertThat(MemoryFit.sum(List.of(third, third, third))).isEqualTo(new DeviceMemory(6, 90, 21));
        DeviceMemory unknown = new DeviceMemory(5, Long.MAX_VALUE, 0);
        assertThat(MemoryFit.sum(List.of(unknown, unknown))).isEqualTo(new DeviceMemory(10, Long.MAX_VALUE, 0));
    }
}
