package troika.plan;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import troika.graph.Op;
import troika.tensor.DType;
import troika.tensor.Shape;

/// A rank's program while the compiler's passes work on it: buffers without places, tensors as
/// slices of buffers, and instructions in issue order without dependencies.
final class RankBuilder {
    /// Memory that lives and dies as one.
    record Buffer(String name, TensorSpec.Role role, boolean host, long bytes) {}

    /// A slice of a buffer.
    /// @param offset bytes from the buffer's start
    record Slice(int buffer, String name, long offset, DType dtype, Shape shape) {
        long bytes() {
            return shape.elements() * dtype.bytes();
        }
    }

    /// An instruction without dependencies.
    record Draft(Instruction.Kind kind, Lane lane, int block, int group, int microbatch, List<Call> calls) {}

    private final int rank;
    private final List<Buffer> buffers = new ArrayList<>();
    private final List<Slice> tensors = new ArrayList<>();
    private final List<Draft> drafts = new ArrayList<>();
    /// The first tensor of each name.
    private final Map<String, Integer> ids = new HashMap<>();
    private boolean turns;

    RankBuilder(int rank) {
        this.rank = rank;
    }

    /// A builder that starts with the same buffers and tensors, and no instructions.
    RankBuilder copy() {
        RankBuilder copy = new RankBuilder(rank);
        copy.buffers.addAll(buffers);
        copy.tensors.addAll(tensors);
        copy.ids.putAll(ids);
        return copy;
    }

    int rank() {
        return rank;
    }

    List<Buffer> buffers() {
        return buffers;
    }

    List<Slice> tensors() {
        return tensors;
    }

    List<Draft> drafts() {
        return drafts;
    }

    /// Whether microbatches 2m and 2m + 1 are computed in turns.
    boolean turns() {
        return turns;
    }

    /// A new buffer with a tensor over the whole of it; returns the tensor's id.
    int allocate(String name, TensorSpec.Role role, boolean host, DType dtype, Shape shape) {
        buffers.add(new Buffer(name, role, host, shape.elements() * dtype.bytes()));
        return add(new Slice(buffers.size() - 1, name, 0, dtype, shape));
    }

    /// A tensor in the buffer of another, `elements` of its dtype behind that one's start.
    int slice(int tensor, String name, long elements, DType dtype, Shape shape) {
        Slice base = tensors.get(tensor);
        long offset = base.offset() + elements * dtype.bytes();
        if (offset + shape.elements() * dtype.bytes()
                > buffers.get(base.buffer()).bytes()) {
            throw new IllegalArgumentException(name + " does not fit into " + base.name());
        }
        return add(new Slice(base.buffer(), name, offset, dtype, shape));
    }

    /// A part of a tensor, from its element `from` on, or the tensor itself where that is all of it.
    int part(int tensor, String name, long from, Shape shape) {
        Slice whole = tensors.get(tensor);
        return whole.shape().elements() == shape.elements() ? tensor : slice(tensor, name, from, whole.dtype(), shape);
    }

    private int add(Slice tensor) {
        tensors.add(tensor);
        ids.putIfAbsent(tensor.name(), tensors.size() - 1);
        return tensors.size() - 1;
    }

    int find(String name) {
        Integer id = ids.get(name);
        if (id == null) {
            throw new IllegalArgumentException("no tensor " + name);
        }
        return id;
    }

    /// Emits an instruction of the step as a whole.
    void emit(Instruction.Kind kind, Lane lane, List<Call> calls) {
        emit(kind, lane, -1, -1, -1, calls);
    }

    /// Emits an instruction; -1 for a block, group or microbatch that it does not belong to.
    void emit(Instruction.Kind kind, Lane lane, int block, int group, int microbatch, List<Call> calls) {
        if (!calls.isEmpty()) {
            drafts.add(new Draft(kind, lane, block, group, microbatch, List.copyOf(calls)));
        }
    }

    /// Merges two runs of instructions, those from `start` and those from `middle` on: a segment of each in turns,
    /// which ends behind a collective within a block.
    void interleave(int start, int middle) {
        turns = true;
        List<List<Draft>> one = segments(start, middle);
        List<List<Draft>> other = segments(middle, drafts.size());
        drafts.subList(start, drafts.size()).clear();
        for (int i = 0; i < Math.max(one.size(), other.size()); i++) {
            for (List<List<Draft>> run : List.of(one, other)) {
                if (i < run.size()) {
                    drafts.addAll(run.get(i));
                }
            }
        }
    }

    private List<List<Draft>> segments(int from, int to) {
        List<List<Draft>> segments = new ArrayList<>();
        boolean ended = true;
        for (Draft draft : List.copyOf(drafts.subList(from, to))) {
            if (ended) {
                segments.add(new ArrayList<>());
            }
            segments.getLast().add(draft);
            ended = draft.lane() == Lane.TENSOR;
        }
        return segments;
    }

    /// Pass: of all accumulating writes to a tensor in one execution, the first overwrites. No
    /// gradient needs zeroing.
    void overwriteFirst() {
        Set<List<Long>> written = new HashSet<>();
        for (int i = 0; i < drafts.size(); i++) {
            Draft draft = drafts.get(i);
            List<Call> calls = new ArrayList<>();
            for (Call call : draft.calls()) {
                if (call.op() instanceof Op.Accumulating op) {
                    Slice target = tensors.get(call.outputs().getFirst());
                    boolean first = written.add(List.of((long) target.buffer(), target.offset()));
                    calls.add(new Call(op.accumulating(!first), call.inputs(), call.outputs()));
                } else {
                    calls.add(call);
                }
            }
            drafts.set(
                    i, new Draft(draft.kind(), draft.lane(), draft.block(), draft.group(), draft.microbatch(), calls));
        }
    }
}
