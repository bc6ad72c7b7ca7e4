package troika.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import troika.graph.Parameter;
import troika.graph.Portion;
import troika.graph.Range;
import troika.plan.ParameterGroup;
import troika.tensor.DType;
import troika.tensor.Shape;

/// Any pieces of the whole weight, in any portion and any shard.
class HolderTest {
    /// One rank's tensor of floats.
    private record Shard(float[] values) implements RankMemory {
        @Override
        public int worldSize() {
            return 1;
        }

        @Override
        public boolean has(int rank, String tensor) {
            return true;
        }

        @Override
        public long elements(int rank, String tensor) {
            return values.length;
        }

        @Override
        public DType dtype(int rank, String tensor) {
            return DType.F32;
        }

        @Override
        public void write(int rank, String tensor, long first, MemorySegment from) {
            MemorySegment.ofArray(values).asSlice(4 * first, from.byteSize()).copyFrom(from);
        }

        @Override
        public void read(int rank, String tensor, long first, MemorySegment to) {
            to.copyFrom(MemorySegment.ofArray(values).asSlice(4 * first, to.byteSize()));
        }

        @Override
        public MemorySegment host(int rank, String tensor) {
            throw new UnsupportedOperationException();
        }
    }

    @Property
    void elementsGoToTheirPlaceAndBack(
            @ForAll @IntRange(min = 1, max = 9) int rows,
            @ForAll @IntRange(min = 1, max = 9) int columns,
            @ForAll @IntRange(min = 1, max = 3) int shards,
            @ForAll long seed) {
        Random random = new Random(seed);
        List<Range> held = new ArrayList<>();
        for (int row = random.nextInt(2); row < rows; ) {
            int end = row + 1 + random.nextInt(rows - row);
            held.add(new Range(row, end));
            row = end + random.nextInt(2);
        }
        if (held.isEmpty()) {
            held.add(new Range(0, 1));
        }
        int left = random.nextInt(columns);
        Range across = new Range(left, left + 1 + random.nextInt(columns - left));
        Portion portion = new Portion(new Shape(rows, columns), held, across);
        Parameter parameter = new Parameter("w", portion, true, 1, List.of());
        int offset = 64 * random.nextInt(2);
        int size = Math.ceilDiv(offset + (int) parameter.elements(), shards * 64) * 64;
        ParameterGroup group =
                new ParameterGroup(0, "g", List.of(parameter), List.of((long) offset), (long) size * shards, 0);

        float[] flat = new float[size * shards];
        int at = offset;
        float[] seen = new float[rows * columns];
        for (Range range : held) {
            for (long row = range.start(); row < range.end(); row++) {
                for (long column = across.start(); column < across.end(); column++) {
                    int index = (int) (row * columns + column);
                    flat[at++] = 1 + index;
                    seen[index] = 1 + index;
                }
            }
        }
        float[] back = new float[rows * columns];
        for (int shard = 0; shard < shards; shard++) {
            Shard memory = new Shard(new float[size]);
            Holder holder = new Holder(0, 0, shard, group, 0);
            for (int first = 0; first < rows * columns; ) {
                int count = Math.min(rows * columns - first, 1 + random.nextInt(rows * columns));
                float[] piece = new float[count];
                for (int i = 0; i < count; i++) {
                    piece[i] = 1 + first + i;
                }
                holder.write(memory, "t", first, count, MemorySegment.ofArray(piece), HolderTest::scratch);
                first += count;
            }
            assertThat(memory.values).isEqualTo(Arrays.copyOfRange(flat, shard * size, (shard + 1) * size));
            for (int first = 0; first < rows * columns; ) {
                int count = Math.min(rows * columns - first, 1 + random.nextInt(rows * columns));
                MemorySegment piece = MemorySegment.ofArray(back).asSlice(4L * first, 4L * count);
                holder.read(memory, "t", first, count, piece, HolderTest::scratch);
                first += count;
            }
        }
        assertThat(back).isEqualTo(seen);
    }

    private static MemorySegment scratch(long bytes) {
        return MemorySegment.ofArray(new byte[(int) bytes]);
    }
}
