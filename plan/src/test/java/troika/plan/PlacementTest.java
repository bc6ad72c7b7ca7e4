package troika.plan;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import troika.tensor.DType;

class PlacementTest {
    /// A buffer at its place, from its first to its last use; one that lasts is always in use, and one of no
    /// bytes clashes with none.
    private record Placed(String name, boolean host, long start, long end, int first, int last) {
        boolean clashes(Placed other) {
            return start < end
                    && other.start < other.end
                    && host == other.host
                    && first <= other.last
                    && other.first <= last
                    && start < other.end
                    && other.start < end;
        }
    }

    @Property(tries = 400)
    void buffersThatLiveTogetherLieApart(@ForAll long seed) {
        RankBuilder builder = Programs.random(seed);
        Placement places = new Placement(builder);
        List<Placed> all = placed(builder, places);
        for (int i = 0; i < all.size(); i++) {
            assertThat(all.get(i).start() % 256).isZero();
            for (int j = 0; j < i; j++) {
                assertThat(all.get(i).clashes(all.get(j)))
                        .as(all.get(i) + " and " + all.get(j))
                        .isFalse();
            }
        }
        assertThat(places.deviceBytes()).isEqualTo(end(all, false));
        assertThat(places.hostBytes()).isEqualTo(end(all, true));
    }

    private static long end(List<Placed> all, boolean host) {
        return all.stream()
                .filter(buffer -> buffer.host() == host)
                .mapToLong(buffer -> ParameterGroup.roundUp(buffer.end(), 256))
                .max()
                .orElse(0);
    }

    private static List<Placed> placed(RankBuilder builder, Placement places) {
        List<Placed> all = new ArrayList<>();
        for (int i = 0; i < builder.buffers().size(); i++) {
            RankBuilder.Buffer buffer = builder.buffers().get(i);
            int first = 0;
            int last = Integer.MAX_VALUE;
            if (!buffer.host() && !buffer.role().persistent()) {
                List<Integer> uses = uses(builder, i);
                if (uses.isEmpty()) {
                    continue;
                }
                first = uses.getFirst();
                last = uses.getLast();
            }
            long start = places.offset(i);
            all.add(new Placed(buffer.name(), buffer.host(), start, start + buffer.bytes(), first, last));
        }
        return all;
    }

    /// The calls, counted over all instructions, that touch a buffer.
    private static List<Integer> uses(RankBuilder builder, int buffer) {
        List<Integer> uses = new ArrayList<>();
        int position = 0;
        for (RankBuilder.Draft draft : builder.drafts()) {
            for (Call call : draft.calls()) {
                List<Integer> tensors = new ArrayList<>(call.inputs());
                tensors.addAll(call.outputs());
                if (tensors.stream()
                        .anyMatch(t -> t >= 0 && builder.tensors().get(t).buffer() == buffer)) {
                    uses.add(position);
                }
                position++;
            }
        }
        return uses;
    }

    @Property(tries = 60)
    void thePlansPartsAreTheArena(
            @ForAll @IntRange(min = 1, max = 3) int ranks,
            @ForAll @IntRange(max = 2) int stage,
            @ForAll @IntRange(min = 1, max = 3) int accumulation,
            @ForAll boolean recompute,
            @ForAll boolean bf16) {
        DType dtype = bf16 ? DType.BF16 : DType.F32;
        TrainingPlan plan = Programs.plan(ranks, Programs.options(dtype, 6, accumulation, stage, recompute));
        long elements = plan.groups().getFirst().stream()
                .mapToLong(ParameterGroup::elements)
                .sum();
        long shards = stage >= 1 ? ranks : 1;
        for (int rank = 0; rank < ranks; rank++) {
            MemoryPlan memory = plan.memory().get(rank);
            long parts =
                    memory.bytes().values().stream().mapToLong(Long::longValue).sum();
            assertThat(parts + memory.padding())
                    .isEqualTo(memory.total())
                    .isEqualTo(plan.train().ranks().get(rank).deviceBytes())
                    .isEqualTo(plan.evaluate().ranks().get(rank).deviceBytes());
            assertThat(memory.padding()).isNotNegative();
            assertThat(memory.bytes().get(TensorSpec.Role.WEIGHTS)).isEqualTo(elements * dtype.bytes());
            assertThat(memory.bytes().get(TensorSpec.Role.MOMENTS)).isEqualTo(8 * elements / shards);
            assertThat(memory.bytes().getOrDefault(TensorSpec.Role.MASTER_WEIGHTS, 0L))
                    .isEqualTo(bf16 ? 4 * elements / shards : 0);
            assertThat(memory.bytes().get(TensorSpec.Role.GRADIENTS))
                    .isEqualTo(4 * elements / (stage == 2 ? ranks : 1));
        }
    }

    @Property(tries = 8)
    void recomputationTakesLessMemory(@ForAll @IntRange(min = 1, max = 8) int batch) {
        assertThat(activations(batch, true)).isLessThan(activations(batch, false));
    }

    private static long activations(int batch, boolean recompute) {
        PlanOptions options = Programs.options(DType.F32, batch, 1, 0, recompute);
        MemoryPlan memory = new Compiler(_ -> Programs.model(false), Layout.dataParallel(1), options)
                .training()
                .memory()
                .getFirst();
        return memory.bytes().getOrDefault(TensorSpec.Role.ACTIVATIONS, 0L);
    }
}
