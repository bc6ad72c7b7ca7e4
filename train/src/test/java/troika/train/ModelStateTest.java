package troika.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.graph.Block;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.graph.Portion;
import troika.graph.Range;
import troika.graph.Shares;
import troika.graph.Trace;
import troika.graph.Value;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.model.ModelWeights;
import troika.plan.Layout;
import troika.plan.ParameterGroup;
import troika.tensor.DType;
import troika.tensor.Shape;
import troika.train.checkpoint.CheckpointWriter;

/// Weights and states come and go in any layout as they do on one rank, bit for bit.
class ModelStateTest {
    private static final int POSITIONS = 16;
    private static final Layout ONE = Layout.dataParallel(1);

    @TempDir
    Path folder = Path.of("");

    @ParameterizedTest
    @CsvSource(delimiter = ';', textBlock = """
            0-2:dp3;             0; F32;  false
            0-2:dp3;             1; F32;  false
            0-2:dp3;             3; BF16; false
            0,1:tp2;             0; F32;  false
            0-2:tp3;             1; BF16; true
            0-5:dp2tp3;          2; F32;  false
            5,3,1,0,2,4:dp2tp3;  3; BF16; true
            0 | 1;               0; F32;  true
            0,1:dp2 | 2;         1; F32;  true
            2,0:tp2 | 1;         3; BF16; true
            0-3:dp2tp2 | 4-6:tp3; 3; F32; true
            """)
    void aFileIsTheSameWhateverTheLayout(String text, int zero, DType moments, boolean tied) throws Exception {
        ModelConfig config = TinyRun.config(tied);
        Job one = new Job(config, ONE, 0, moments);
        one.state().initialize(3);
        one.fillMoments();
        var expected = save(one, "one");

        Job other = new Job(config, Layout.parse(text), zero, moments);
        other.state().initialize(3);
        other.checkPadding();
        assertThat(save(other, "initial").get("model.safetensors")).isEqualTo(expected.get("model.safetensors"));
        assertThat(other.weightsAreRoundedMasters()).isTrue();

        Job loaded = new Job(config, Layout.parse(text), zero, moments);
        try (ModelWeights states = ModelWeights.open(folder.resolve("one/model"), ModelState.OPTIMIZER)) {
            loaded.state().loadOptimizer(states);
        }
        assertThat(save(loaded, "loaded")).isEqualTo(expected);
        loaded.checkPadding();
        assertThat(loaded.weightsAreRoundedMasters()).isTrue();

        Job fine = new Job(config, Layout.parse(text), zero, moments);
        try (ModelWeights files = ModelWeights.open(folder.resolve("one/model"))) {
            fine.state().load(files);
        }
        assertThat(save(fine, "fine").get("model.safetensors")).isEqualTo(expected.get("model.safetensors"));
    }

    @ParameterizedTest
    @CsvSource({"1", "3"})
    void constantsGoWhereTheyAreUsed(int zero) {
        Job job = new Job(TinyRun.config(false), Layout.parse("0 | 1,2:tp2"), zero, DType.F32);
        job.memory.absent.add("1 rope");
        Model model = DeepSeekLlm.of(job.config, POSITIONS);
        job.state();
        assertThat(job.memory.floats(0, "rope"))
                .isEqualTo(model.constants().getFirst().values().get());
        assertThat(job.memory.floats(2, "rope"))
                .isEqualTo(model.constants().getFirst().values().get());
        assertThat(job.memory.tensors.get(1)).doesNotContainKey("rope");
    }

    private TreeMap<String, String> save(Job job, String name) throws Exception {
        Path root = folder.resolve(name);
        try (CheckpointWriter writer = CheckpointWriter.model(root)) {
            job.state().save(writer, DType.F32);
            job.state().saveOptimizer(writer);
            writer.commit();
        }
        return Runs.files(root.resolve("model"));
    }

    /// A model's state in a layout, in memory that no device has.
    private static final class Job {
        private final ModelConfig config;
        private final Layout layout;
        private final List<List<ParameterGroup>> groups = new ArrayList<>();
        private final FakeMemory memory;

        Job(ModelConfig config, Layout layout, int zero, DType moments) {
            this.config = config;
            this.layout = layout;
            List<Block> blocks = DeepSeekLlm.of(config, POSITIONS).blocks();
            List<Range> layers = layout.layers(config.layers(), 1, 0);
            memory = new FakeMemory(layout.worldSize());
            for (int rank = 0; rank < layout.worldSize(); rank++) {
                Layout.Place place = layout.place(rank);
                Layout.Stage stage = layout.stages().get(place.stage());
                List<Block> own = new ArrayList<>();
                for (int b = 0; b < blocks.size(); b++) {
                    boolean held = b == 0
                            ? place.stage() == 0
                            : b == blocks.size() - 1
                                    ? place.stage() == layout.stages().size() - 1
                                    : b > layers.get(place.stage()).start()
                                            && b <= layers.get(place.stage()).end();
                    if (held) {
                        own.add(portion(blocks.get(b), stage.tensorParallel(), place.tensor()));
                    }
                }
                List<ParameterGroup> ofRank = ParameterGroup.of(own, stage.dataParallel());
                groups.add(ofRank);
                for (ParameterGroup group : ofRank) {
                    long shard = group.elements() / stage.dataParallel();
                    long states = zero >= 1 ? shard : group.elements();
                    memory.add(rank, "weights:" + group.name(), DType.BF16, zero >= 3 ? shard : group.elements());
                    memory.add(rank, "master:" + group.name(), DType.F32, states);
                    memory.add(rank, "moment1:" + group.name(), moments, states);
                    memory.add(rank, "moment2:" + group.name(), moments, states);
                }
                memory.add(rank, "rope", DType.F32, (long) POSITIONS * config.headDim());
            }
        }

        ModelState state() {
            return new ModelState(memory, config, DeepSeekLlm.of(config, POSITIONS), layout, groups, true);
        }

        /// On one rank: anything that differs from element to element.
        void fillMoments() {
            memory.tensors.getFirst().forEach((name, tensor) -> {
                if (name.startsWith("moment")) {
                    float[] values = new float[(int) tensor.elements()];
                    for (int i = 0; i < values.length; i++) {
                        values[i] = (i * 31 % 251) * (name.startsWith("moment1") ? 1 : 2);
                    }
                    Floats.store(values, values.length, tensor.dtype, MemorySegment.ofArray(tensor.bytes));
                }
            });
        }

        /// What is no weight's stays as it was.
        void checkPadding() {
            for (int rank = 0; rank < groups.size(); rank++) {
                for (ParameterGroup group : groups.get(rank)) {
                    boolean[] covered = new boolean[(int) group.elements()];
                    for (int i = 0; i < group.parameters().size(); i++) {
                        int from = group.offsets().get(i).intValue();
                        Arrays.fill(
                                covered,
                                from,
                                from + (int) group.parameters().get(i).elements(),
                                true);
                    }
                    String name = "master:" + group.name();
                    float[] held = memory.floats(rank, name);
                    int start = held.length == covered.length
                            ? 0
                            : layout.place(rank).replica() * held.length;
                    for (int i = 0; i < held.length; i++) {
                        assertThat(held[i] != FakeMemory.UNTOUCHED)
                                .as("element %d of %s on rank %d", start + i, name, rank)
                                .isEqualTo(covered[start + i]);
                    }
                }
            }
        }

        boolean weightsAreRoundedMasters() {
            for (int rank = 0; rank < groups.size(); rank++) {
                for (ParameterGroup group : groups.get(rank)) {
                    float[] masters = memory.floats(rank, "master:" + group.name());
                    float[] weights = memory.floats(rank, "weights:" + group.name());
                    int start = weights.length == masters.length
                            ? 0
                            : layout.place(rank).replica() * masters.length;
                    for (int i = 0; i < masters.length; i++) {
                        short rounded = Floats.bf16(masters[i]);
                        if (masters[i] != FakeMemory.UNTOUCHED && Floats.bf16(weights[start + i]) != rounded) {
                            return false;
                        }
                    }
                }
            }
            return true;
        }

        /// The block with a tensor rank's portions of its weights.
        private Block portion(Block block, int ranks, int index) {
            Map<String, Parameter> parameters = new LinkedHashMap<>();
            block.parameters().forEach((key, whole) -> parameters.put(key, portion(whole, ranks, index)));
            return new Block() {
                @Override
                public String name() {
                    return block.name();
                }

                @Override
                public String kind() {
                    return block.kind();
                }

                @Override
                public Map<String, Parameter> parameters() {
                    return parameters;
                }

                @Override
                public @Nullable Value forward(Trace trace, @Nullable Value x) {
                    throw new UnsupportedOperationException();
                }
            };
        }

        private Parameter portion(Parameter whole, int ranks, int index) {
            Shape shape = whole.shape();
            if (ranks == 1 || shape.rank() == 1) {
                return whole;
            }
            Portion portion;
            if (whole.name().endsWith("qkv")) {
                // Two key-value heads: the third rank has one that another has too.
                int size = config.headDim();
                long queries = (long) config.heads() * size;
                long keyValues = (long) config.keyValueHeads() * size;
                Range heads = range(config.heads(), ranks, index);
                long first = heads.start() * config.keyValueHeads() / config.heads() * size;
                portion = Portion.rows(
                        shape,
                        new Range(heads.start() * size, heads.end() * size),
                        new Range(queries + first, queries + first + size),
                        new Range(queries + keyValues + first, queries + keyValues + first + size));
            } else if (whole.name().endsWith("gateUp")) {
                Range rows = range(shape.size(0) / 2, ranks, index);
                long half = shape.size(0) / 2;
                portion = Portion.rows(shape, rows, new Range(half + rows.start(), half + rows.end()));
            } else if (whole.name().endsWith("out") || whole.name().endsWith("down")) {
                portion = Portion.columns(shape, range(shape.size(1), ranks, index));
            } else {
                portion = Portion.rows(shape, range(shape.size(0), ranks, index));
            }
            return new Parameter(whole.name(), portion, whole.decayed(), whole.initialDeviation(), List.of());
        }

        private static Range range(long units, int ranks, int index) {
            Shares shares = new Shares(units, Collections.nCopies(ranks, 1.0), 1);
            return new Range(shares.start(index), shares.start(index + 1));
        }
    }

    /// Tensors on the Java heap.
    private static final class FakeMemory implements RankMemory {
        static final float UNTOUCHED = -77;

        private record Held(DType dtype, byte[] bytes) {
            long elements() {
                return bytes.length / dtype.bytes();
            }
        }

        private final List<Map<String, Held>> tensors = new ArrayList<>();
        private final Set<String> absent = new HashSet<>();

        FakeMemory(int ranks) {
            for (int rank = 0; rank < ranks; rank++) {
                tensors.add(new HashMap<>());
            }
        }

        void add(int rank, String name, DType dtype, long elements) {
            float[] values = new float[(int) elements];
            Arrays.fill(values, UNTOUCHED);
            Held held = new Held(dtype, new byte[(int) elements * dtype.bytes()]);
            Floats.store(values, values.length, dtype, MemorySegment.ofArray(held.bytes));
            tensors.get(rank).put(name, held);
        }

        private Held held(int rank, String name) {
            return Objects.requireNonNull(tensors.get(rank).get(name), name + " on rank " + rank);
        }

        float[] floats(int rank, String name) {
            Held held = held(rank, name);
            float[] values = new float[(int) held.elements()];
            Floats.load(MemorySegment.ofArray(held.bytes), held.dtype, values.length, values);
            return values;
        }

        @Override
        public int worldSize() {
            return tensors.size();
        }

        @Override
        public boolean has(int rank, String tensor) {
            if (absent.contains(rank + " " + tensor)) {
                tensors.get(rank).remove(tensor);
            }
            return tensors.get(rank).containsKey(tensor);
        }

        @Override
        public long elements(int rank, String tensor) {
            return held(rank, tensor).elements();
        }

        @Override
        public DType dtype(int rank, String tensor) {
            return held(rank, tensor).dtype;
        }

        @Override
        public void write(int rank, String tensor, long first, MemorySegment from) {
            Held held = held(rank, tensor);
            MemorySegment.copy(from, 0, MemorySegment.ofArray(held.bytes), first * held.dtype.bytes(), from.byteSize());
        }

        @Override
        public void read(int rank, String tensor, long first, MemorySegment to) {
            Held held = held(rank, tensor);
            MemorySegment.copy(MemorySegment.ofArray(held.bytes), first * held.dtype.bytes(), to, 0, to.byteSize());
        }

        @Override
        public MemorySegment host(int rank, String tensor) {
            return MemorySegment.ofArray(held(rank, tensor).bytes);
        }
    }
}
