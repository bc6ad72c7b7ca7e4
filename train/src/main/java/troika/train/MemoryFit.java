package troika.train;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;
import troika.plan.Layout;
import troika.plan.MemoryPlan;
import troika.plan.TrainingPlan;
import troika.tensor.Bytes;
import troika.tensor.Device;
import troika.tensor.DeviceMemory;
import troika.tensor.UserException;
import troika.train.config.Recompute;
import troika.train.config.Sharing;

/// Compares what a run will take of its devices with what they have, before anything is allocated.
final class MemoryFit {
    /// What decides how much memory a run needs, its model and batch apart.
    ///
    /// @param accumulation microbatches of each data-parallel rank
    record Choice(Sharing sharing, int accumulation, Recompute recompute) {
        Choice recomputing(Recompute what) {
            return new Choice(sharing, accumulation, what);
        }

        Choice accumulating(int microbatches) {
            return new Choice(sharing, microbatches, recompute);
        }

        Choice sharing(Sharing other) {
            return new Choice(other, accumulation, recompute);
        }
    }

    private final Choice chosen;
    private final int batch;
    private final Function<Choice, TrainingPlan> compiler;

    /// @param batch sequences of a step
    /// @param compiler plans the run with another choice; throws [UserException] where that is impossible
    MemoryFit(Choice chosen, int batch, Function<Choice, TrainingPlan> compiler) {
        this.chosen = chosen;
        this.batch = batch;
        this.compiler = compiler;
    }

    /// The largest of a plan's arenas.
    static MemoryPlan largest(TrainingPlan plan) {
        return Collections.max(plan.memory(), Comparator.comparingLong(MemoryPlan::total));
    }

    /// The ranks of each device, which may be several, by its name.
    static Map<String, List<Integer>> ranks(List<Device> devices) {
        Map<String, List<Integer>> ranks = new LinkedHashMap<>();
        for (int rank = 0; rank < devices.size(); rank++) {
            ranks.computeIfAbsent(devices.get(rank).name(), _ -> new ArrayList<>())
                    .add(rank);
        }
        return ranks;
    }

    /// Throws [UserException] where a plan does not fit, with the first change of options that makes it fit.
    void check(TrainingPlan plan, List<Device> devices) {
        ranks(devices)
                .forEach((device, ranks) ->
                        check(plan, ranks, device, devices.get(ranks.getFirst()).memory()));
    }

    /// @param ranks of the device
    void check(TrainingPlan plan, List<Integer> ranks, String device, DeviceMemory memory) {
        long arena = total(plan, ranks);
        long beside = Math.max(0, memory.overhead() - memory.used());
        if (arena <= memory.free() - beside) {
            return;
        }
        String begin = "The run needs " + Bytes.gib(arena + beside, 2) + " on " + device
                + (ranks.size() == 1 ? "" : " for its " + ranks.size() + " ranks")
                + (beside == 0 ? "" : " (" + Bytes.gib(beside, 2) + " of it beside its arena, for CUDA's own needs)")
                + ", which has "
                + Bytes.gib(memory.free(), 2) + " free: ";
        @Nullable Change last = null;
        long least = arena;
        for (Change change : changes()) {
            long total;
            try {
                total = total(compiler.apply(change.choice), ranks);
            } catch (UserException impossible) {
                continue;
            }
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

    /// What a device's ranks need together; as much as the largest others where a change moves the load.
    private static long total(TrainingPlan plan, List<Integer> ranks) {
        return Math.max(
                ranks.stream()
                        .mapToLong(rank -> plan.memory().get(rank).total())
                        .sum(),
                largest(plan).total());
    }

    /// Other options of the same run, in the order of what they cost.
    private record Change(String words, Choice choice) {
        Change and(String more, Choice other) {
            return new Change(words.isEmpty() ? more : words + " " + more, other);
        }
    }

    private List<Change> changes() {
        Change asIs = new Change("", chosen);
        List<Change> shared = shared();
        List<Change> changes = new ArrayList<>();
        if (chosen.recompute() == Recompute.NONE) {
            changes.add(asIs.and("--recompute elementwise", chosen.recomputing(Recompute.ELEMENTWISE)));
        }
        changes.addAll(shared);
        boolean recomputes = chosen.recompute() == Recompute.LAYER;
        if (!recomputes) {
            changes.add(recomputing(asIs));
            shared.forEach(change -> changes.add(recomputing(change)));
        }
        changes.addAll(smaller(asIs));
        if (!recomputes) {
            changes.addAll(smaller(recomputing(asIs)));
        }
        shared.forEach(change -> changes.addAll(smaller(recomputes ? change : recomputing(change))));
        return changes;
    }

    private static Change recomputing(Change change) {
        return change.and("--recompute layer", change.choice.recomputing(Recompute.LAYER));
    }

    /// Other ways to share the work among as many ranks: higher ZeRO stages where there are replicas, and all
    /// ranks one behind the other with microbatches as large as before.
    private List<Change> shared() {
        Sharing sharing = chosen.sharing();
        Layout layout = sharing.layout();
        int ranks = layout.worldSize();
        List<Change> changes = new ArrayList<>();
        boolean replicas = layout.stages().stream().anyMatch(stage -> stage.dataParallel() > 1);
        for (int stage = Math.max(2, sharing.zeroStage() + 1); stage <= 3 && replicas; stage++) {
            changes.add(new Change("--zero-stage " + stage, chosen.sharing(sharing.withZeroStage(stage))));
        }
        if (ranks > 1 && layout.stages().equals(Layout.dataParallel(ranks).stages())) {
            Layout pipeline = Layout.grid(1, 1, ranks).withShares(layout.shares());
            int accumulation = chosen.accumulation() * ranks;
            changes.add(new Change(
                    "--pipeline-parallel " + ranks + " --gradient-accumulation-steps " + accumulation,
                    chosen.sharing(sharing.withLayout(pipeline)).accumulating(accumulation)));
        }
        return changes;
    }

    /// Microbatches of a half, a quarter, … down to one sequence.
    private List<Change> smaller(Change from) {
        if (from.words.contains("--gradient-accumulation-steps")) {
            return List.of();
        }
        List<Change> changes = new ArrayList<>();
        int unit = from.choice.sharing().layout().microbatchUnit();
        int micro = Math.ceilDiv(batch, unit * chosen.accumulation());
        while (micro > 1) {
            micro = Math.ceilDiv(micro, 2);
            int accumulation = Math.ceilDiv(batch, micro * unit);
            String size = micro * accumulation * unit == batch
                    ? "--per-device-train-batch-size " + micro
                    : "--train-batch-size " + batch;
            changes.add(from.and(
                    size + " --gradient-accumulation-steps " + accumulation, from.choice.accumulating(accumulation)));
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
