package troika.train;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.LongFunction;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import troika.graph.Block;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.model.HuggingFaceNames;
import troika.model.ModelConfig;
import troika.model.ModelWeights;
import troika.model.SafetensorsShards;
import troika.model.SafetensorsTensor;
import troika.model.SafetensorsWriter;
import troika.plan.Layout;
import troika.plan.ParameterGroup;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.checkpoint.CheckpointWriter;

/// Weights and optimizer states between the ranks' arenas, where they are in portions, flat and sharded, and
/// files, where they are whole and have Hugging Face's names. Nothing of a layout reaches a file, so any layout
/// reads what any other wrote.
final class ModelState {
    /// Stems of the files: `optimizer-*.safetensors` where there are several.
    static final String OPTIMIZER = "optimizer";

    private static final String WEIGHTS = "weights";
    private static final String MASTER = "master";
    private static final List<String> STATES = List.of(MASTER, "moment1", "moment2");
    /// What is rounded to infinity in F16.
    private static final float LEAST_INFINITE_F16 = 65520;
    /// Elements moved at a time.
    private static final int CHUNK = 1 << 20;
    /// Elements that a thread makes or converts at a time; a multiple of the pieces of initial weights.
    private static final int PART = 8 * InitialWeights.PIECE;

    private final RankMemory memory;
    private final ModelConfig config;
    /// In the model's order, whatever the layout.
    private final List<Weight> weights = new ArrayList<>();
    private final boolean training;
    private final Queue<Buffer> buffers = new ConcurrentLinkedQueue<>();

    /// A weight of the model and who holds it, in the order of stages and ranks.
    private record Weight(Parameter parameter, List<Holder> holders) {
        /// Elements of a row.
        long columns() {
            return parameter.elements() / parameter.shape().size(0);
        }
    }

    /// @param model the whole, as one rank would have it
    /// @param groups by rank
    /// @param training whether there are optimizer states
    ModelState(
            RankMemory memory,
            ModelConfig config,
            Model model,
            Layout layout,
            List<List<ParameterGroup>> groups,
            boolean training) {
        this.memory = memory;
        this.config = config;
        this.training = training;
        Map<String, List<Holder>> holders = holders(layout, groups);
        for (Parameter parameter : parameters(model)) {
            List<Holder> of = holders.get(parameter.name());
            if (of == null) {
                throw new IllegalArgumentException("no rank holds " + parameter.name());
            }
            weights.add(new Weight(parameter, of));
        }
        for (Model.Constant constant : model.constants()) {
            float[] values = constant.values().get();
            for (int rank = 0; rank < memory.worldSize(); rank++) {
                if (memory.has(rank, constant.name())) {
                    memory.write(rank, constant.name(), 0, MemorySegment.ofArray(values));
                }
            }
        }
    }

    /// Who holds a weight, by its name.
    private static Map<String, List<Holder>> holders(Layout layout, List<List<ParameterGroup>> groups) {
        Map<String, List<Holder>> holders = new LinkedHashMap<>();
        for (Layout.Stage stage : layout.stages()) {
            for (int rank : stage.ranks()) {
                Layout.Place place = layout.place(rank);
                for (ParameterGroup group : groups.get(rank)) {
                    for (int index = 0; index < group.parameters().size(); index++) {
                        holders.computeIfAbsent(group.parameters().get(index).name(), _ -> new ArrayList<>())
                                .add(new Holder(rank, place.stage(), place.replica(), group, index));
                    }
                }
            }
        }
        return holders;
    }

    /// A model's weights, each once, those of a block with weight decay first.
    private static List<Parameter> parameters(Model model) {
        Map<String, Parameter> parameters = new LinkedHashMap<>();
        for (Block block : model.blocks()) {
            block.parameters().values().stream()
                    .sorted(Comparator.comparing(parameter -> !parameter.decayed()))
                    .forEach(parameter -> parameters.putIfAbsent(parameter.name(), parameter));
        }
        return List.copyOf(parameters.values());
    }

    /// Random initial weights, the same in every layout.
    void initialize(long seed) {
        List<Runnable> parts = new ArrayList<>();
        for (Weight weight : weights) {
            InitialWeights values = new InitialWeights(weight.parameter(), seed);
            inParts(parts, weight.parameter().elements(), (first, count, buffer) -> {
                values.fill(first, count, buffer.floats);
                writeWeights(weight, first, count, buffer);
            });
        }
        run(parts);
    }

    /// Weights from a model's directory. Throws [UserException] where a tensor is missing or has another
    /// shape.
    void load(ModelWeights files) {
        List<Runnable> parts = new ArrayList<>();
        for (Weight weight : weights) {
            for (HuggingFaceNames.Part part : parts(weight)) {
                copyIn(parts, files, part.name(), part, (first, count, buffer) -> {
                    writeWeights(weight, position(weight, part) + first, count, buffer);
                });
            }
        }
        run(parts);
    }

    /// Optimizer states from a checkpoint; the weights are rounded from the masters.
    void loadOptimizer(ModelWeights states) {
        List<Runnable> parts = new ArrayList<>();
        for (Weight weight : weights) {
            for (HuggingFaceNames.Part part : parts(weight)) {
                for (String state : STATES) {
                    copyIn(parts, states, part.name() + "." + state, part, (first, count, buffer) -> {
                        long at = position(weight, part) + first;
                        if (state.equals(MASTER)) {
                            writeWeights(weight, at, count, buffer);
                        } else {
                            write(state, weight, at, count, buffer);
                        }
                    });
                }
            }
        }
        run(parts);
    }

    /// Writes the weights, from the masters, as `model.safetensors` or its shards.
    void save(CheckpointWriter writer, DType saveDtype) {
        write(writer, "model", saveDtype, List.of(MASTER));
    }

    /// Writes masters and moments, in the dtype that they have.
    void saveOptimizer(CheckpointWriter writer) {
        write(writer, OPTIMIZER, null, STATES);
    }

    private interface Entry {
        void visit(Weight weight, HuggingFaceNames.Part part, String state, String name, DType type);
    }

    /// @param saveDtype null: as in the arenas
    private void write(CheckpointWriter writer, String stem, @Nullable DType saveDtype, List<String> states) {
        List<SafetensorsWriter.Entry> entries = new ArrayList<>();
        forEachEntry(
                states,
                saveDtype,
                (weight, part, state, name, type) ->
                        entries.add(new SafetensorsWriter.Entry(name, type, part.shape())));
        writer.tensors(stem, entries, SafetensorsShards.SHARD_BYTES);
        Buffer buffer = new Buffer(CHUNK);
        forEachEntry(
                states,
                saveDtype,
                (weight, part, state, name, type) -> writePart(writer, name, type, state, weight, part, buffer));
    }

    private void forEachEntry(List<String> states, @Nullable DType saveDtype, Entry entry) {
        for (Weight weight : weights) {
            for (HuggingFaceNames.Part part : parts(weight)) {
                for (String state : states) {
                    String name = states.size() == 1 ? part.name() : part.name() + "." + state;
                    entry.visit(weight, part, state, name, saveDtype != null ? saveDtype : held(state, weight));
                }
            }
        }
    }

    private List<HuggingFaceNames.Part> parts(Weight weight) {
        return HuggingFaceNames.parts(config, weight.parameter().name());
    }

    private void writePart(
            CheckpointWriter writer,
            String name,
            DType type,
            String state,
            Weight weight,
            HuggingFaceNames.Part part,
            Buffer buffer) {
        long start = position(weight, part);
        long elements = part.shape().elements();
        for (long done = 0; done < elements; done += CHUNK) {
            int count = (int) Math.min(CHUNK, elements - done);
            read(state, weight, start + done, count, buffer);
            requireFinite(name, type, count, buffer.floats);
            writer.write(name, buffer.stored(count, type));
        }
    }

    /// A last update may have spoilt weights that no step has used yet.
    private static void requireFinite(String name, DType type, int count, float[] floats) {
        for (int i = 0; i < count; i++) {
            if (type == DType.F16 && Math.abs(floats[i]) >= LEAST_INFINITE_F16 && Float.isFinite(floats[i])) {
                throw new UserException("Tensor " + name + " holds " + floats[i]
                        + ", which is too large for fp16, so nothing was saved: give --save-dtype bf16 or fp32 and go on"
                        + " from an earlier checkpoint with --resume.");
            }
            if (!Float.isFinite(floats[i])) {
                throw new UserException("Tensor " + name + " is not finite after the last step, so nothing was saved:"
                        + " lower the learning rate and go on from an earlier checkpoint with --resume.");
            }
        }
    }

    /// The element of a weight at which one of its files' tensors begins.
    private static long position(Weight weight, HuggingFaceNames.Part part) {
        return part.firstRow() * weight.columns();
    }

    private interface Part {
        /// Elements `first` … `first + count` of a tensor, by way of a buffer that no other thread uses.
        void move(long first, int count, Buffer buffer);
    }

    /// What a thread needs to make, convert or move a part.
    private static final class Buffer {
        private final float[] floats;
        private final byte[] bytes;
        /// For rows of which a rank holds some columns; made where that occurs.
        private byte @Nullable [] packed;

        Buffer(int elements) {
            floats = new float[elements];
            bytes = new byte[4 * elements];
        }

        /// The first floats as elements of a dtype.
        MemorySegment stored(int count, DType dtype) {
            MemorySegment stored = room(count, dtype);
            Floats.store(floats, count, dtype, stored);
            return stored;
        }

        /// Room for elements of a dtype.
        MemorySegment room(int count, DType dtype) {
            return MemorySegment.ofArray(bytes).asSlice(0, (long) count * dtype.bytes());
        }

        MemorySegment packed(long size) {
            byte[] array = packed;
            if (array == null) {
                array = new byte[bytes.length];
                packed = array;
            }
            return MemorySegment.ofArray(array).asSlice(0, size);
        }
    }

    private void inParts(List<Runnable> parts, long elements, Part action) {
        for (long done = 0; done < elements; done += PART) {
            long first = done;
            int count = (int) Math.min(PART, elements - done);
            parts.add(() -> {
                Buffer buffer = Objects.requireNonNullElseGet(buffers.poll(), () -> new Buffer(PART));
                action.move(first, count, buffer);
                buffers.add(buffer);
            });
        }
    }

    /// Runs parts on all cores, and drops the buffers.
    private void run(List<Runnable> parts) {
        parts.parallelStream().forEach(Runnable::run);
        buffers.clear();
    }

    private void copyIn(
            List<Runnable> parts, ModelWeights files, String name, HuggingFaceNames.Part part, Part action) {
        SafetensorsTensor tensor = files.tensor(name);
        if (!tensor.shape().equals(part.shape()) || !tensor.dtype().isFloating()) {
            throw new UserException("Tensor " + name + " is " + tensor.dtype() + tensor.shape() + " in "
                    + files.file(name) + ", but config.json makes it " + part.shape()
                    + ": weights and config.json belong to different models.");
        }
        int size = tensor.dtype().bytes();
        inParts(parts, part.shape().elements(), (first, count, buffer) -> {
            Floats.load(tensor.data().asSlice(first * size, (long) count * size), tensor.dtype(), count, buffer.floats);
            action.move(first, count, buffer);
        });
    }

    /// Writes a buffer's floats to masters and, rounded, to weights.
    private void writeWeights(Weight weight, long first, int count, Buffer buffer) {
        if (training) {
            write(MASTER, weight, first, count, buffer);
        }
        write(WEIGHTS, weight, first, count, buffer);
    }

    /// Writes a buffer's floats as elements of the whole weight, wherever they are held.
    private void write(String state, Weight weight, long first, int count, Buffer buffer) {
        DType dtype = held(state, weight);
        MemorySegment elements =
                dtype == DType.F32 ? MemorySegment.ofArray(buffer.floats) : buffer.stored(count, dtype);
        LongFunction<MemorySegment> scratch = buffer::packed;
        for (Holder holder : weight.holders()) {
            holder.write(memory, tensor(state, holder), first, count, elements, scratch);
        }
    }

    /// Reads elements of the whole weight, each from the first rank that holds it.
    private void read(String state, Weight weight, long first, int count, Buffer buffer) {
        DType dtype = held(state, weight);
        MemorySegment elements = buffer.room(count, dtype);
        // Rows that several tensor-parallel ranks hold are read from the last first: the first rank's stay.
        for (Holder holder : sources(state, weight).toList().reversed()) {
            holder.read(memory, tensor(state, holder), first, count, elements, buffer::packed);
        }
        Floats.load(elements, dtype, count, buffer.floats);
    }

    /// The holders that have all of a weight between them: those of one stage, and where they have no shards,
    /// of one replica.
    private Stream<Holder> sources(String state, Weight weight) {
        int stage = weight.holders().getFirst().stage();
        return weight.holders().stream()
                .filter(holder -> holder.stage() == stage
                        && (holder.replica() == 0 || !holder.isWhole(memory, tensor(state, holder))));
    }

    /// The dtype of a state in the arenas.
    private DType held(String state, Weight weight) {
        Holder first = weight.holders().getFirst();
        return memory.dtype(first.rank(), tensor(state, first));
    }

    private static String tensor(String state, Holder holder) {
        return state + ":" + holder.group().name();
    }
}
