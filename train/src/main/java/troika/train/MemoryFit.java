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

    /// A device, which may be of several ranks.
    record Card(String name, List<Integer> ranks, DeviceMemory memory) {
        /// What this device's own ranks need together.
        private long total(TrainingPlan plan) {
            return ranks.stream()
                    .mapToLong(rank -> plan.memory().get(rank).total())
                    .sum();
        }

        private long beside() {
            return Math.max(0, memory.overhead() - memory.used());
        }

        /// By how much a plan is too large; not above 0 where it fits.
        private long excess(TrainingPlan plan) {
            return total(plan) - (memory.free() - beside());
        }
    }

    /// Throws [UserException] where a plan does not fit, with the first change of options that makes it fit.
    void check(TrainingPlan plan, List<Device> devices) {
        List<Card> cards = new ArrayList<>();
        ranks(devices)
                .forEach((name, ranks) -> cards.add(new Card(
                        name,
                        ranks,
                        sum(ranks.stream()
                                .map(rank -> devices.get(rank).memory())
                                .toList()))));
        checkCards(plan, cards);
    }

    /// The memory of a device whose ranks each have a part of it.
    static DeviceMemory sum(List<DeviceMemory> parts) {
        boolean unknown = parts.stream().anyMatch(part -> part.free() == Long.MAX_VALUE);
        return new DeviceMemory(
                parts.stream().mapToLong(DeviceMemory::used).sum(),
                unknown
                        ? Long.MAX_VALUE
                        : parts.stream().mapToLong(DeviceMemory::free).sum(),
                parts.stream().mapToLong(DeviceMemory::overhead).sum());
    }

    void checkCards(TrainingPlan plan, List<Card> cards) {
        for (Card card : cards) {
            if (card.excess(plan) > 0) {
                throw refusal(plan, card, cards);
            }
        }
    }

    private UserException refusal(TrainingPlan plan, Card full, List<Card> cards) {
        long beside = full.beside();
        String begin = "The run needs " + Bytes.gib(full.total(plan) + beside, 2) + " on " + full.name
                + (full.ranks.size() == 1 ? "" : " for its " + full.ranks.size() + " ranks")
                + (beside == 0 ? "" : " (" + Bytes.gib(beside, 2) + " of it beside its arena, for CUDA's own needs)")
                + ", which has "
                + Bytes.gib(full.memory.free(), 2) + " free: ";
        String last = "neither recomputation nor smaller microbatches would help";
        long least = worst(plan, cards).excess(plan);
        for (Change change : changes()) {
            TrainingPlan changed;
            try {
                changed = compiler.apply(change.choice);
            } catch (UserException impossible) {
                continue;
            }
            // A change may move load to where there was room before.
            Card worst = worst(changed, cards);
            long excess = worst.excess(changed);
            if (excess <= 0) {
                return new UserException(begin + "give " + change.words + ", with which it needs "
                        + Bytes.gib(full.total(changed) + beside, 2) + ".");
            }
            if (excess < least) {
                least = excess;
                last = "even " + change.words + " would need "
                        + Bytes.gib(worst.total(changed) + worst.beside(), 2)
                        + (worst.equals(full) ? "" : " on " + worst.name);
            }
        }
        return new UserException(
                begin + last + ", so use a smaller model, shorter sequences or --optimizer-states bf16.");
    }

    private static Card worst(TrainingPlan plan, List<Card> cards) {
        return Collections.max(cards, Comparator.comparingLong(card -> card.excess(plan)));
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

    /// Other ways to share the work among as many ranks: one microbatch at a time where tensor-parallel ranks
    /// compute two in turns, higher ZeRO stages where there are replicas, and all ranks one behind the other with
    /// microbatches as large as before.
    private List<Change> shared() {
        Sharing sharing = chosen.sharing();
        Layout layout = sharing.layout();
        int ranks = layout.worldSize();
        List<Change> changes = new ArrayList<>();
        boolean inTurns = layout.stages().size() == 1
                && layout.stages().getFirst().tensorParallel() > 1
                && chosen.accumulation() > 1;
        if (inTurns && sharing.overlap()) {
            changes.add(new Change("--overlap off", chosen.sharing(sharing.withoutOverlap())));
        }
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
