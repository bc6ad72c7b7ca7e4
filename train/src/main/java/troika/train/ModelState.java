package troika.train;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.model.HuggingFaceNames;
import troika.model.ModelConfig;
import troika.model.ModelWeights;
import troika.model.SafetensorsShards;
import troika.model.SafetensorsTensor;
import troika.model.SafetensorsWriter;
import troika.plan.ParameterGroup;
import troika.tensor.DType;
import troika.tensor.UserException;
import troika.train.checkpoint.CheckpointWriter;
import troika.train.engine.Engine;

/// Weights and optimizer states between an Engine's arenas, where they are flat and sharded, and files,
/// where they are whole and have Hugging Face's names. Nothing of a layout reaches a file, so any layout
/// reads what any other wrote.
final class ModelState {
    /// Stems of the files: `optimizer-*.safetensors` where there are several.
    static final String OPTIMIZER = "optimizer";

    private static final List<String> STATES = List.of("master", "moment1", "moment2");
    /// What is rounded to infinity in F16.
    private static final float LEAST_INFINITE_F16 = 65520;
    /// Elements moved at a time.
    private static final int CHUNK = 1 << 20;
    /// Elements that a thread makes or converts at a time; a multiple of the pieces of initial weights.
    private static final int PART = 8 * InitialWeights.PIECE;

    private final Engine engine;
    private final ModelConfig config;
    private final List<ParameterGroup> groups;
    private final DType dtype;
    private final boolean training;
    private final float[] floats = new float[CHUNK];
    private final byte[] bytes = new byte[4 * CHUNK];
    private final Queue<Buffer> buffers = new ConcurrentLinkedQueue<>();

    /// @param dtype of the weights in the arenas
    /// @param training whether there are optimizer states
    ModelState(
            Engine engine,
            ModelConfig config,
            Model model,
            List<ParameterGroup> groups,
            DType dtype,
            boolean training) {
        this.engine = engine;
        this.config = config;
        this.groups = groups;
        this.dtype = dtype;
        this.training = training;
        for (Model.Constant constant : model.constants()) {
            float[] values = constant.values().get();
            for (int rank = 0; rank < engine.worldSize(); rank++) {
                engine.write(rank, constant.name(), 0, MemorySegment.ofArray(values));
            }
        }
    }

    /// Random initial weights, the same in every layout.
    void initialize(long seed) {
        List<Runnable> parts = new ArrayList<>();
        forEachParameter((group, index) -> {
            Parameter parameter = group.parameters().get(index);
            InitialWeights values = new InitialWeights(parameter, seed);
            long start = group.offsets().get(index);
            inParts(parts, parameter.elements(), (first, count, buffer) -> {
                values.fill(first, count, buffer.floats);
                writeWeights(group, start + first, count, buffer);
            });
        });
        run(parts);
    }

    /// Weights from a model's directory. Throws [UserException] where a tensor is missing or has another
    /// shape.
    void load(ModelWeights weights) {
        List<Runnable> parts = new ArrayList<>();
        forEachParameter((group, index) -> {
            for (HuggingFaceNames.Part part : parts(group, index)) {
                copyIn(parts, weights, part.name(), part, (first, count, buffer) -> {
                    writeWeights(group, position(group, index, part) + first, count, buffer);
                });
            }
        });
        run(parts);
    }

    /// Optimizer states from a checkpoint; the weights are rounded from the masters.
    void loadOptimizer(ModelWeights states) {
        List<Runnable> parts = new ArrayList<>();
        forEachParameter((group, index) -> {
            for (HuggingFaceNames.Part part : parts(group, index)) {
                for (String state : STATES) {
                    copyIn(parts, states, part.name() + "." + state, part, (first, count, buffer) -> {
                        long at = position(group, index, part) + first;
                        if (state.equals("master")) {
                            writeWeights(group, at, count, buffer);
                        } else {
                            writeSharded(state, group, at, count, buffer);
                        }
                    });
                }
            }
        });
        run(parts);
    }

    /// Writes the weights, from the masters, as `model.safetensors` or its shards.
    void save(CheckpointWriter writer, DType saveDtype) {
        write(writer, "model", saveDtype, List.of("master"));
    }

    /// Writes masters and moments, in the dtype that they have.
    void saveOptimizer(CheckpointWriter writer) {
        write(writer, OPTIMIZER, null, STATES);
    }

    /// @param saveDtype null: as in the arenas
    private void write(CheckpointWriter writer, String stem, @Nullable DType saveDtype, List<String> states) {
        List<SafetensorsWriter.Entry> entries = new ArrayList<>();
        forEachParameter((group, index) -> {
            for (HuggingFaceNames.Part part : parts(group, index)) {
                for (String state : states) {
                    DType type = saveDtype != null ? saveDtype : held(state, group);
                    entries.add(new SafetensorsWriter.Entry(name(part, state, states), type, part.shape()));
                }
            }
        });
        writer.tensors(stem, entries, SafetensorsShards.SHARD_BYTES);
        forEachParameter((group, index) -> {
            for (HuggingFaceNames.Part part : parts(group, index)) {
                for (String state : states) {
                    DType type = saveDtype != null ? saveDtype : held(state, group);
                    writePart(
                            writer, name(part, state, states), type, state, group, position(group, index, part), part);
                }
            }
        });
    }

    private List<HuggingFaceNames.Part> parts(ParameterGroup group, int index) {
        return HuggingFaceNames.parts(config, group.parameters().get(index).name());
    }

    private void writePart(
            CheckpointWriter writer,
            String name,
            DType type,
            String state,
            ParameterGroup group,
            long start,
            HuggingFaceNames.Part part) {
        long elements = part.shape().elements();
        for (long done = 0; done < elements; done += CHUNK) {
            int count = (int) Math.min(CHUNK, elements - done);
            readSharded(state, group, start + done, count);
            requireFinite(name, type, count);
            MemorySegment chunk = MemorySegment.ofArray(bytes).asSlice(0, (long) count * type.bytes());
            Floats.store(floats, count, type, chunk);
            writer.write(name, chunk);
        }
    }

    /// A last update may have spoilt weights that no step has used yet.
    private void requireFinite(String name, DType type, int count) {
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

    private static String name(HuggingFaceNames.Part part, String state, List<String> states) {
        return states.size() == 1 ? part.name() : part.name() + "." + state;
    }

    /// The element of the flat group at which a part of its parameter begins.
    private static long position(ParameterGroup group, int index, HuggingFaceNames.Part part) {
        Parameter parameter = group.parameters().get(index);
        return group.offsets().get(index)
                + part.firstRow() * (parameter.elements() / parameter.shape().size(0));
    }

    private interface Part {
        /// Elements `first` … `first + count` of a tensor, by way of a buffer that no other thread uses.
        void move(long first, int count, Buffer buffer);
    }

    /// What a thread needs to make or convert a part.
    private static final class Buffer {
        private final float[] floats = new float[PART];
        private final byte[] bytes = new byte[4 * PART];

        /// The first floats as elements of a dtype.
        MemorySegment stored(int count, DType dtype) {
            MemorySegment stored = MemorySegment.ofArray(bytes).asSlice(0, (long) count * dtype.bytes());
            Floats.store(floats, count, dtype, stored);
            return stored;
        }
    }

    private void inParts(List<Runnable> parts, long elements, Part action) {
        for (long done = 0; done < elements; done += PART) {
            long first = done;
            int count = (int) Math.min(PART, elements - done);
            parts.add(() -> {
                Buffer buffer = Objects.requireNonNullElseGet(buffers.poll(), Buffer::new);
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

    /// Writes a buffer's floats to masters and, rounded, to weights, on every rank.
    private void writeWeights(ParameterGroup group, long first, int count, Buffer buffer) {
        if (training) {
            writeSharded("master", group, first, count, buffer);
        }
        MemorySegment rounded = buffer.stored(count, dtype);
        for (int rank = 0; rank < engine.worldSize(); rank++) {
            engine.write(rank, "weights:" + group.name(), first, rounded);
        }
    }

    private void writeSharded(String state, ParameterGroup group, long first, int count, Buffer buffer) {
        DType held = held(state, group);
        MemorySegment stored = held == DType.F32 ? MemorySegment.ofArray(buffer.floats) : buffer.stored(count, held);
        forEachShard(state, group, first, count, stored, engine::write);
    }

    private void readSharded(String state, ParameterGroup group, long first, int count) {
        MemorySegment stored = MemorySegment.ofArray(bytes);
        forEachShard(state, group, first, count, stored, engine::read);
        Floats.load(stored, held(state, group), count, floats);
    }

    /// The dtype of a state in the arenas.
    private DType held(String state, ParameterGroup group) {
        return engine.dtype(0, state + ":" + group.name());
    }

    private interface Move {
        /// Moves a part of `bytes` to or from a rank's tensor, from its element `first` on.
        void move(int rank, String tensor, long first, MemorySegment part);
    }

    /// Visits the parts of elements first … first + count that each rank holds, all of them on every rank
    /// where the state is not sharded.
    ///
    /// @param elements where they are, or are to be
    private void forEachShard(
            String state, ParameterGroup group, long first, int count, MemorySegment elements, Move move) {
        for (int rank = 0; rank < engine.worldSize(); rank++) {
            String tensor = state + ":" + group.name();
            long held = engine.elements(rank, tensor);
            long start = held == group.elements() ? 0 : rank * held;
            long from = Math.max(first, start);
            long to = Math.min(first + count, start + held);
            if (from < to) {
                long size = held(state, group).bytes();
                MemorySegment part = elements.asSlice(size * (from - first), size * (to - from));
                move.move(rank, tensor, from - start, part);
            }
        }
    }

    private void forEachParameter(BiConsumer<ParameterGroup, Integer> action) {
        for (ParameterGroup group : groups) {
            for (int index = 0; index < group.parameters().size(); index++) {
                action.accept(group, index);
            }
        }
    }
}
