package troika.train;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;
import troika.plan.MemoryPlan;
import troika.plan.PlanOptions;
import troika.plan.TrainingPlan;
import troika.tensor.Bytes;
import troika.tensor.Device;
import troika.tensor.DeviceMemory;
import troika.tensor.UserException;

/// Compares what a run will take of its devices with what they have, before anything is allocated.
final class MemoryFit {
    private final PlanOptions options;
    private final int ranks;
    private final Function<PlanOptions, TrainingPlan> compiler;

    /// @param options of the run
    /// @param ranks that share its batch
    /// @param compiler plans the run with other options
    MemoryFit(PlanOptions options, int ranks, Function<PlanOptions, TrainingPlan> compiler) {
        this.options = options;
        this.ranks = ranks;
        this.compiler = compiler;
    }

    /// The largest of a plan's arenas.
    static MemoryPlan largest(TrainingPlan plan) {
        return Collections.max(plan.memory(), Comparator.comparingLong(MemoryPlan::total));
    }

    /// Throws [UserException] where a plan does not fit, with the first change of options that makes it fit.
    void check(TrainingPlan plan, List<Device> devices) {
        for (int rank = 0; rank < devices.size(); rank++) {
            Device device = devices.get(rank);
            check(plan.memory().get(rank).total(), device.name(), device.memory());
        }
    }

    /// @param arena bytes that are to be allocated
    void check(long arena, String device, DeviceMemory memory) {
        long beside = Math.max(0, memory.overhead() - memory.used());
        if (arena <= memory.free() - beside) {
            return;
        }
        String begin = "The run needs " + Bytes.gib(arena + beside, 2) + " on " + device
                + (beside == 0 ? "" : " (" + Bytes.gib(beside, 2) + " of it beside its arena, for CUDA's own needs)")
                + ", which has "
                + Bytes.gib(memory.free(), 2) + " free: ";
        @Nullable Change last = null;
        long least = arena;
        for (Change change : changes()) {
            long total = largest(compiler.apply(change.options)).total();
            if (total <= memory.free() - beside) {
                throw new UserException(
                        begin + "give " + change.words + ", with which it needs " + Bytes.gib(total + beside, 2) + ".");
            }
            if (total < least) {
                least = total;
                last = change;
            }
        }
        throw new UserException(begin
                + (last == null
                        ? "neither recomputation nor smaller microbatches would help"
                        : "even " + last.words + " would need " + Bytes.gib(least + beside, 2))
                + ", so use a smaller model, shorter sequences or --optimizer-states bf16.");
    }

    /// Other options of the same run, in the order of what they cost.
    private record Change(String words, PlanOptions options) {}

    private List<Change> changes() {
        List<Change> changes = new ArrayList<>();
        if (!options.recompute() && !options.rebuild()) {
            changes.add(new Change("--recompute elementwise", options.recomputing(false, true)));
        }
        PlanOptions layer = options.recomputing(true, false);
        if (!options.recompute()) {
            changes.add(new Change("--recompute layer", layer));
        }
        changes.addAll(smaller(options, ""));
        if (!options.recompute()) {
            changes.addAll(smaller(layer, "--recompute layer "));
        }
        return changes;
    }

    /// Microbatches of a half, a quarter, … down to one sequence.
    private List<Change> smaller(PlanOptions from, String words) {
        List<Change> changes = new ArrayList<>();
        int micro = Math.ceilDiv(options.batch(), ranks * options.accumulation());
        while (micro > 1) {
            micro = Math.ceilDiv(micro, 2);
            int accumulation = Math.ceilDiv(options.batch(), micro * ranks);
            String size = micro * accumulation * ranks == options.batch()
                    ? "--per-device-train-batch-size " + micro
                    : "--train-batch-size " + options.batch();
            changes.add(new Change(
                    words + size + " --gradient-accumulation-steps " + accumulation, from.accumulating(accumulation)));
        }
        return changes;
    }

    /// The line that says that the driver and its libraries take more than is allowed for, or null.
    ///
    /// @param arena bytes that the process has allocated
    static @Nullable String excess(long arena, String device, DeviceMemory memory) {
        long beside = memory.used() - arena;
        if (memory.overhead() == 0 || beside <= memory.overhead()) {
            return null;
        }
        return "On " + device + " this process uses " + Bytes.gib(beside, 2) + " beside its arena of "
                + Bytes.gib(arena, 2) + ", more than the " + Bytes.gib(memory.overhead(), 2) + " that are allowed for.";
    }
}
