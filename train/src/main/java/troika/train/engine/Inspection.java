package troika.train.engine;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Comparator;
import org.jspecify.annotations.Nullable;
import troika.graph.Op;
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
    /// @param token row of the microbatch, or −1
    /// @param collective whether ranks together wrote it
    record Found(Instruction instruction, TensorSpec tensor, long token, boolean collective) {
        private static final int BACKWARD = 2;

        /// Puts what ranks found each first in an order in which no cause comes behind its effect, whatever the
        /// layout: instructions of different ranks have no common numbers, nor have microbatches. Forwards pass
        /// what they make on to forwards of later blocks and to backwards, backwards to those of earlier
        /// blocks, and all to what is done with gradients; a rank's kernel to the collective it takes part in.
        static final Comparator<Found> CAUSES_FIRST = Comparator.<Found>comparingInt(
                        found -> phase(found.instruction.kind()))
                .thenComparingInt(found -> phase(found.instruction.kind()) == BACKWARD
                        ? -found.instruction.block()
                        : found.instruction.block())
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
    Found look(Instruction instruction, Call call, RankMemory memory) {
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
                        token(instruction, call, tensor, element),
                        call.op().collective());
            }
        }
        return null;
    }

    private long token(Instruction instruction, Call call, TensorSpec tensor, long element) {
        Shape shape = tensor.shape();
        if (tensor.role() != TensorSpec.Role.ACTIVATIONS || instruction.block() < 0) {
            return -1;
        }
        if (call.op() instanceof Op.Attention && shape.rank() == 3) {
            // logSumExp: [batch, heads, sequence]
            return element / (shape.size(1) * shape.size(2)) * shape.size(2) + element % shape.size(2);
        }
        long columns = shape.rank() == 1 ? 1 : shape.size(-1);
        return firstToken(instruction, call) + element / columns;
    }

    /// The first row of the chunk that a call of the loss head works on; 0 elsewhere.
    private long firstToken(Instruction instruction, Call call) {
        long done = 0;
        long chunk = 0;
        for (Call before : instruction.calls()) {
            boolean loss = before.op() instanceof Op.CrossEntropy || before.op() instanceof Op.CrossEntropyWhole;
            if (loss) {
                chunk = done;
                done += program.tensors().get(before.inputs().get(1)).shape().elements();
            }
            if (before.equals(call)) {
                // A chunk's product of logits comes before its loss, the rest after.
                return loss || !(call.op() instanceof Op.Linear) ? chunk : done;
            }
        }
        return 0;
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
