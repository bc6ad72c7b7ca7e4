package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.tensor.DType;

/// How much of ZeRO-3's communication hides behind computing, simulated: 8 layers of 4096/11008 with a vocabulary of
/// 50257 on three RTX 4090s, 4 × 2048 tokens a microbatch, layers recomputed.
class OverlapTest {
    private static final int STEPS = 3;

    static Timeline timeline(CostModel cost, int accumulation, DType travelling, int prefetch) {
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
        Parallelism parallelism = new Parallelism(
                3, PipelineSchedule.ONE_F_ONE_B, 1, false, travelling, true, prefetch, false);
        PlanOptions options = new PlanOptions(
                DType.BF16,
                2048,
                12 * accumulation,
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
        TrainingPlan plan = new Compiler(
                        tensor -> DeepSeekLlm.of(config, 2048, tensor), Layout.dataParallel(3), options)
                .training();
        return Simulator.simulate(plan.train(), cost, STEPS);
    }

    public static void main(String[] arguments) throws Exception {
        for (double host : new double[] {55e9, 200e9}) {
            for (String lanes : List.of("16,16,16", "8,8,4")) {
                for (int accumulation : new int[] {1, 4}) {
                    for (DType travelling : List.of(DType.F32, DType.BF16)) {
                        for (int prefetch : new int[] {1, 2, 4}) {
                            List<Integer> widths = List.of(lanes.split(",")).stream()
                                    .map(Integer::valueOf)
                                    .toList();
                            CostModel base = CostModel.rtx4090(widths);
                            CostModel cost = new CostModel(base.cards(), base.roots(), host, base.transport());
                            Timeline t = timeline(cost, accumulation, travelling, prefetch);
                            System.out.printf(
                                    "host %3.0f lanes %s accumulation %d %s prefetch %d: step %.3f s, communication %.3f s"
                                            + " a step, hidden %.1f %%, bubble %.1f %%%n",
                                    host / 1e9,
                                    lanes,
                                    accumulation,
                                    travelling,
                                    prefetch,
                                    t.stepSeconds(),
                                    t.communicationSeconds(0) / STEPS,
                                    100 * t.hiddenShare(0),
                                    100 * t.bubbleShare(0));
                            if (arguments.length > 0 && accumulation == 1 && prefetch == 2 && host > 100e9 && widths.getFirst() == 16 && travelling == DType.F32) {
                                t.write(java.nio.file.Path.of(arguments[0]));
                            }
                        }
                    }
                }
            }
        }
    }
}
