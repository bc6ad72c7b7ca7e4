package troika.train.engine;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;
import troika.graph.Op;
import troika.graph.Shares;
import troika.graph.TensorParallel;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.RankProgram;
import troika.plan.TensorSpec;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// Looks for values that are not finite.
final class Inspection {
    private static final int PIECE_BYTES = 1 << 24;

    private final Device device;
    private final RankProgram program;

    Inspection(Device device, RankProgram program) {
        this.device = device;
        this.program = program;
    }

    /// What was found.
    ///
    /// @param position of the call among those of its block, phase and microbatch, which the ranks that
    /// share a block have in common
    /// @param token row of the microbatch, or −1
    /// @param collective whether ranks together wrote it
    record Found(Instruction instruction, TensorSpec tensor, int position, long token, boolean collective) {
        private static final int BACKWARD = 2;

        /// Puts what ranks found each first in an order in which no cause comes behind its effect, whatever the
        /// layout: instructions of different ranks have no common numbers, nor have microbatches. Forwards pass
        /// what they make on to forwards of later blocks and to backwards, backwards to those of earlier
        /// blocks, and all to what is done with gradients; within a block the ranks that share it take the
        /// same steps, and elsewhere a rank's kernel passes on to the collective it takes part in.
        static final Comparator<Found> CAUSES_FIRST = Comparator.<Found>comparingInt(
                        found -> phase(found.instruction.kind()))
                .thenComparingInt(found -> phase(found.instruction.kind()) == BACKWARD
                        ? -found.instruction.block()
                        : found.instruction.block())
                .thenComparingInt(Found::position)
                .thenComparing(Found::collective)
                .thenComparingInt(found -> found.instruction.microbatch());

        private static int phase(Instruction.Kind kind) {
            return switch (kind) {
                case INPUT -> 0;
                case FORWARD, RECOMPUTE -> 1;
                case BACKWARD_INPUT, BACKWARD_WEIGHT -> BACKWARD;
                default -> 3;
            };
        }
    }

    /// The first value that is not finite in what a call has written, or null.
    ///
    /// @param memory where the rank's tensors are
    @Nullable
    Found look(Instruction instruction, Call call, Arenas memory) {
        switch (call.op()) {
            // What is only moved was found where it was made; and a part of the loss knows no label's logit but
            // those of its own rows, which is minus infinity.
            case Op.AllGather _, Op.Receive _, Op.CrossEntropyPart _ -> {
                return null;
            }
            default -> {}
        }
        for (int output : call.outputs()) {
            TensorSpec tensor = program.tensors().get(output);
            long element = firstNonFinite(device, memory.tensor(tensor));
            if (element >= 0) {
                return new Found(
                        instruction,
                        tensor,
                        position(instruction, call),
                        token(instruction, call, tensor, element),
                        call.op().collective());
            }
        }
        return null;
    }

    /// The row of the microbatch that an element belongs to, or −1 where no one row can be named.
    private long token(Instruction instruction, Call call, TensorSpec tensor, long element) {
        Shape shape = tensor.shape();
        if (tensor.role() != TensorSpec.Role.ACTIVATIONS || instruction.block() < 0 || instruction.microbatch() < 0) {
            return -1;
        }
        if (call.op() instanceof Op.Attention && shape.rank() == 3) {
            // logSumExp: [batch, heads, sequence]
            return element / (shape.size(1) * shape.size(2)) * shape.size(2) + element % shape.size(2);
        }
        long columns = shape.rank() == 1 ? 1 : shape.size(-1);
        long row = element / columns;
        if (loss(call.op()) || call.op() instanceof Op.Linear || call.op() instanceof Op.LinearBackwardInput) {
            return firstOfChunk(instruction, call) + row;
        }
        long rows = shape.elements() / columns;
        long tokens =
                program.tensor("tokens " + instruction.microbatch()).shape().elements();
        return rows == tokens ? row : localRow(row, rows, tokens);
    }

    /// Under sequence parallelism a rank has some rows of norms and residuals, dealt as [TensorParallel#tokens] says.
    private long localRow(long row, long rows, long tokens) {
        for (RankProgram.Axis axis : program.axes()) {
            if (axis.name().equals(TensorParallel.AXIS)) {
                Shares shares = new Shares(tokens, axis.ranks().size());
                int index = axis.ranks().indexOf(program.rank());
                return rows == shares.size(index) ? shares.start(index) + row : -1;
            }
        }
        return -1;
    }

    private static boolean loss(Op op) {
        return op instanceof Op.CrossEntropy || op instanceof Op.CrossEntropyWhole;
    }

    /// The first row of the chunk that a call of the loss head works on; 0 elsewhere.
    private long firstOfChunk(Instruction instruction, Call call) {
        long done = 0;
        long chunk = 0;
        List<Call> calls = calls(instruction);
        for (Call before : calls.subList(0, calls.indexOf(call) + 1)) {
            if (loss(before.op())) {
                chunk = done;
                done += program.tensors().get(before.inputs().get(1)).shape().elements();
            }
        }
        // A chunk's product of logits comes before its loss, the rest after.
        return call.op() instanceof Op.Linear ? done : chunk;
    }

    private int position(Instruction instruction, Call call) {
        return instruction.block() < 0 ? 0 : calls(instruction).indexOf(call);
    }

    /// All calls of an instruction's block, phase and microbatch: collectives between them make several instructions
    /// of them.
    private List<Call> calls(Instruction instruction) {
        return program.instructions().stream()
                .filter(part -> Found.phase(part.kind()) == Found.phase(instruction.kind())
                        && part.block() == instruction.block()
                        && part.microbatch() == instruction.microbatch())
                .flatMap(part -> part.calls().stream())
                .toList();
    }

    /// The rank's first weight that is not finite, in words, or null.
    ///
    /// @param blocks names
    @Nullable
    String spoiltWeight(Arenas memory, List<String> blocks) {
        for (TensorSpec tensor : program.tensors()) {
            if (tensor.role() == TensorSpec.Role.WEIGHTS && tensor.name().startsWith("weights:")) {
                long element = firstNonFinite(device, memory.tensor(tensor));
                if (element >= 0) {
                    return weight(tensor, element, blocks);
                }
            }
        }
        return null;
    }

    /// The first weight that the forward reads of what holds this element of a group's weights: of the tensor itself
    /// or, where that is a shard, of what it has been gathered to.
    private String weight(TensorSpec weights, long element, List<String> blocks) {
        long offset = element * weights.dtype().bytes();
        // Where the element is; memory of what was gathered is used for something else behind the last use.
        Set<Long> places = new HashSet<>(Set.of(weights.offset() + offset));
        for (Instruction instruction : program.instructions()) {
            for (Call call : instruction.calls()) {
                for (int input : call.inputs()) {
                    if (input >= 0 && instruction.kind() == Instruction.Kind.FORWARD) {
                        TensorSpec read = program.tensors().get(input);
                        if (read.name().startsWith("weight:") && places.stream().anyMatch(at -> holds(read, at))) {
                            return "tensor " + read.name() + " of block " + blocks.get(instruction.block());
                        }
                    }
                }
                for (int output : call.outputs()) {
                    TensorSpec written = program.tensors().get(output);
                    places.removeIf(at -> holds(written, at));
                    if (call.op() instanceof Op.AllGather(String axis)
                            && call.inputs().contains(weights.id())) {
                        places.add(written.offset() + shard(axis) * weights.bytes() + offset);
                    }
                }
            }
        }
        return "tensor " + weights.name();
    }

    private static boolean holds(TensorSpec tensor, long at) {
        return !tensor.host() && tensor.offset() <= at && at < tensor.offset() + tensor.bytes();
    }

    /// Which of the shards on an axis is this rank's.
    private int shard(String axis) {
        return program.axes().stream()
                .filter(named -> named.name().equals(axis))
                .findFirst()
                .map(named -> named.ranks().indexOf(program.rank()))
                .orElse(program.rank());
    }

    /// The first element that is not finite, or −1.
    static long firstNonFinite(Device device, Tensor tensor) {
        if (!tensor.dtype().isFloating() || tensor.elements() == 0) {
            return -1;
        }
        MemorySegment segment = MemorySegment.ofArray(new byte[Math.toIntExact(Math.min(tensor.bytes(), PIECE_BYTES))]);
        int size = tensor.dtype().bytes();
        for (long start = 0; start < tensor.bytes(); start += PIECE_BYTES) {
            long length = Math.min(PIECE_BYTES, tensor.bytes() - start);
            Tensor part = tensor.memory().tensor(tensor.offset() + start, tensor.dtype(), new Shape(length / size));
            device.read(part, segment.asSlice(0, length));
            for (long i = 0; i < length; i += size) {
                if (!finite(segment, i, tensor.dtype())) {
                    return (start + i) / size;
                }
            }
        }
        return -1;
    }

    private static boolean finite(MemorySegment segment, long offset, DType dtype) {
        return switch (dtype) {
            case F32 -> Float.isFinite(segment.get(ValueLayout.JAVA_FLOAT_UNALIGNED, offset));
            case BF16 -> (segment.get(ValueLayout.JAVA_SHORT_UNALIGNED, offset) & 0x7f80) != 0x7f80;
            case F16 -> (segment.get(ValueLayout.JAVA_SHORT_UNALIGNED, offset) & 0x7c00) != 0x7c00;
            case I32 -> true;
        };
    }
}
