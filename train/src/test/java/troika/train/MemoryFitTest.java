package troika.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.graph.Model;
import troika.model.DeepSeekLlm;
import troika.plan.Compiler;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PlanOptions;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.DeviceMemory;
import troika.tensor.UserException;

class MemoryFitTest {
    private static final String DEVICE = "cuda:0 (a card)";
    private static final long OVERHEAD = 1L << 20;
    private static final PlanOptions OPTIONS = new PlanOptions(
            DType.BF16,
            64,
            12,
            1,
            Parallelism.zero(0),
            false,
            false,
            false,
            DType.F32,
            0.9F,
            0.999F,
            1e-8F,
            0,
            1,
            1 << 20,
            1 << 14);

    private final Model model = DeepSeekLlm.of(Runs.config(false), 64);

    private TrainingPlan plan(PlanOptions options) {
        return new Compiler(_ -> model, Layout.dataParallel(1), options).training();
    }

    private long total(PlanOptions options) {
        return MemoryFit.largest(plan(options)).total();
    }

    /// A card on which exactly so much fits; a quarter of the overhead is in use already.
    private static DeviceMemory card(long arena) {
        return new DeviceMemory(OVERHEAD / 4, arena + OVERHEAD - OVERHEAD / 4, OVERHEAD);
    }

    private void check(DeviceMemory memory) {
        new MemoryFit(OPTIONS, 1, this::plan).check(total(OPTIONS), DEVICE, memory);
    }

    @Test
    void whatFitsIsNotRefused() {
        check(card(total(OPTIONS)));
        check(new DeviceMemory(0, Long.MAX_VALUE, 0));
    }

    @ParameterizedTest
    @CsvSource({
        "1, false, true, --recompute elementwise",
        "1, true, false, --recompute layer",
        "2, false, false, --per-device-train-batch-size 6 --gradient-accumulation-steps 2",
        "12, true, false, --recompute layer --per-device-train-batch-size 1 --gradient-accumulation-steps 12",
    })
    void theFirstThatFitsIsNamed(int accumulation, boolean layers, boolean elementwise, String words) {
        PlanOptions fitting = OPTIONS.accumulating(accumulation).recomputing(layers, elementwise);
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
}
