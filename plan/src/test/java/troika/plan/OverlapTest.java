package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.tensor.DType;

/// How much of ZeRO-3's communication hides behind computing, simulated: 8 layers of 4096/11008 with a vocabulary of
/// 50257 on three RTX 4090s, 4 × 2048 tokens a microbatch, layers recomputed.
class OverlapTest {
    private static final int STEPS = 3;
    /// Eight channels of DDR5-4800 at two thirds of their 307 GB/s.
    private static final double WORKSTATION_MEMORY = 200e9;

    static Timeline timeline(CostModel cost, int accumulation, DType travelling, int prefetch) {
        Parallelism parallelism =
                new Parallelism(3, PipelineSchedule.ONE_F_ONE_B, 1, false, travelling, true, prefetch, false);
        return timeline(cost, Layout.dataParallel(3), parallelism, 12 * accumulation, accumulation);
    }

    private static Timeline timeline(
            CostModel cost, Layout layout, Parallelism parallelism, int batch, int accumulation) {
        ModelConfig config = new ModelConfig(
                50257,
                4096,
                11008,
                8,
                32,
                32,
                128,
                2048,
                1e-6,
                10000,
                1,
                false,
                OptionalInt.empty(),
                OptionalInt.empty(),
                "bfloat16");
        PlanOptions options = new PlanOptions(
                DType.BF16,
                2048,
                batch,
                accumulation,
                parallelism,
                true,
                false,
                false,
                DType.F32,
                0.9f,
                0.95f,
                1e-8f,
                0.1f,
                1f,
                192 << 20,
                1L << 27);
        TrainingPlan plan = new Compiler(tensor -> DeepSeekLlm.of(config, 2048, tensor), layout, options).training();
        return Simulator.simulate(plan.train(), cost, STEPS);
    }

    /// RTX 4090s with all lanes in a host whose memory is fast enough for three links.
    private static CostModel workstation() {
        CostModel desktop = CostModel.rtx4090(List.of(16, 16, 16));
        return new CostModel(desktop.cards(), desktop.roots(), WORKSTATION_MEMORY, desktop.transport(), 0);
    }

    @Test
    void communicationHidesBehindComputing() {
        Timeline timeline = timeline(workstation(), 4, DType.F32, Parallelism.PREFETCH);
        for (int rank = 0; rank < 3; rank++) {
            // 0.966 where the next microbatch waits for what leaves of the first layer.
            assertThat(timeline.hiddenShare(rank)).isGreaterThan(0.975);
        }
    }

    /// The first layer's gradients leave last; all but the embedding's, behind them, are squared meanwhile.
    @Test
    void theNormOfMostGradientsWaitsForNoneOfTheLastReductions() {
        RankProgram program = timeline(workstation(), 1, DType.F32, Parallelism.PREFETCH)
                .program()
                .ranks()
                .getFirst();
        List<Instruction> reductions = of(program, Instruction.Kind.REDUCE, Lane.COMMUNICATION);
        int last = reductions.getLast().id();
        List<Instruction> waiting = of(program, Instruction.Kind.NORM, Lane.COMPUTE).stream()
                .filter(instruction -> instruction.group() >= 0)
                .toList();
        assertThat(waiting).hasSameSizeAs(reductions);
        assertThat(waiting.subList(0, waiting.size() - 2))
                .noneMatch(instruction -> instruction.after().contains(last));
        assertThat(waiting.get(waiting.size() - 2).after()).contains(last);
    }

    private static List<Instruction> of(RankProgram program, Instruction.Kind kind, Lane lane) {
        return program.instructions().stream()
                .filter(instruction -> instruction.kind() == kind && instruction.lane() == lane)
                .toList();
    }

    /// One microbatch computes while the collectives within another's blocks are under way: two ranks on cards of 700
    /// TFLOP/s with links of 300 GB/s, which compute for longer than they communicate.
    @Test
    void collectivesWithinBlocksHideBehindAnotherMicrobatch() {
        CostModel.Card card = new CostModel.Card(700e12, 400e12, 4e12, 5, 300e9, 300e9, -1);
        CostModel cost = new CostModel(List.of(card, card), List.of(), 1e12, CostModel.Transport.PEER, 20);
        for (int accumulation : new int[] {2, 5}) {
            Timeline timeline =
                    timeline(cost, Layout.grid(1, 2, 1), Parallelism.zero(1), 4 * accumulation, accumulation);
            for (int rank = 0; rank < 2; rank++) {
                // The last of an odd number is alone.
                assertThat(timeline.hiddenShare(rank)).isGreaterThan(accumulation == 2 ? 0.9 : 0.7);
            }
        }
    }

    /// What a replica's ranks reduce keeps its memory until both microbatches have computed the next block: turns
    /// do not wait for it. With sums by rows, whose gradients are summed once more, that shows the most.
    @Test
    void turnsDoNotWaitForReductions() {
        CostModel.Card card = new CostModel.Card(700e12, 400e12, 4e12, 5, 150e9, 150e9, -1);
        CostModel cost = new CostModel(Collections.nCopies(4, card), List.of(), 1e12, CostModel.Transport.PEER, 20);
        Parallelism rows = new Parallelism(
                2, PipelineSchedule.ONE_F_ONE_B, 1, true, DType.BF16, true, Parallelism.PREFETCH, false);
        Timeline timeline = timeline(cost, Layout.grid(2, 2, 1), rows, 32, 4);
        for (int rank = 0; rank < 4; rank++) {
            // 0.60 where they live until the next segment's end.
            assertThat(timeline.hiddenShare(rank)).isGreaterThan(0.65);
        }
    }

    /// Prints the table of BENCHMARKS.md.
    public static void main(String[] arguments) {
        System.out.println(
                "| host memory GB/s | lanes | microbatches a rank | gradients travel in | step s | hidden % |");
        System.out.println("| --- | --- | --- | --- | --- | --- |");
        for (double memory : new double[] {WORKSTATION_MEMORY, 55e9}) {
            for (List<Integer> lanes : List.of(List.of(16, 16, 16), List.of(8, 8, 4))) {
                for (int accumulation : new int[] {1, 4}) {
                    for (DType travelling : List.of(DType.F32, DType.BF16)) {
                        CostModel base = CostModel.rtx4090(lanes);
                        CostModel cost = new CostModel(base.cards(), base.roots(), memory, base.transport(), 0);
                        Timeline timeline = timeline(cost, accumulation, travelling, Parallelism.PREFETCH);
                        System.out.printf(
                                Locale.ROOT,
                                "| %.0f | %s | %d | %s | %.3f | %.1f |%n",
                                memory / 1e9,
                                lanes,
                                accumulation,
                                travelling,
                                timeline.stepSeconds(),
                                100 * timeline.hiddenShare(0));
                    }
                }
            }
        }
    }
}
