package troika.train.engine;

import java.util.List;
import org.jspecify.annotations.Nullable;
import troika.comm.Communicator;
import troika.graph.Op;
import troika.plan.Call;
import troika.tensor.Kernels;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Turns a program's calls into calls of kernels and collectives: the only place that does.
final class Dispatch {
    private final Kernels kernels;
    private final Communicator communicator;
    private final Tensor[] tensors;

    /// @param tensors the rank's tensors by id
    Dispatch(Kernels kernels, Communicator communicator, Tensor[] tensors) {
        this.kernels = kernels;
        this.communicator = communicator;
        this.tensors = tensors;
    }

    void call(Stream stream, Call call) {
        Arguments in = new Arguments(call.inputs());
        Arguments out = new Arguments(call.outputs());
        switch (call.op()) {
            case Op.Embedding op -> kernels.embedding(stream, in.at(0), in.at(1), op.first(), out.at(0));
            case Op.EmbeddingBackward op ->
                kernels.embeddingBackward(stream, in.at(0), in.at(1), op.first(), out.at(0), op.accumulate());
            case Op.RmsNorm op -> kernels.rmsNorm(stream, in.at(0), in.at(1), op.epsilon(), out.at(0), out.at(1));
            case Op.RmsNormBackward op ->
                kernels.rmsNormBackward(
                        stream,
                        in.at(0),
                        in.at(1),
                        in.at(2),
                        in.at(3),
                        in.optional(4),
                        out.at(1),
                        out.at(0),
                        out.optional(2),
                        op.accumulate());
            case Op.Linear _ -> kernels.linear(stream, in.at(0), in.at(1), in.optional(2), out.at(0));
            case Op.LinearBackwardInput _ -> kernels.linearBackwardInput(stream, in.at(0), in.at(1), out.at(0));
            case Op.LinearBackwardWeight op ->
                kernels.linearBackwardWeight(stream, in.at(0), in.at(1), out.at(0), op.accumulate());
            case Op.Rope op ->
                kernels.rope(stream, in.at(0), in.at(1), in.at(2), op.heads(), op.headSize(), op.inverse());
            case Op.Attention op -> kernels.attention(stream, op.shape(), in.at(0), in.at(1), out.at(0), out.at(1));
            case Op.AttentionBackward op ->
                kernels.attentionBackward(
                        stream, op.shape(), in.at(0), in.at(1), in.at(2), in.at(3), in.at(4), out.at(0));
            case Op.AttentionDecode op ->
                kernels.attentionDecode(stream, op.shape(), in.at(0), in.at(1), out.at(0), out.at(1), out.at(2));
            case Op.SwiGlu _ -> kernels.swiglu(stream, in.at(0), out.at(0));
            case Op.SwiGluBackward _ -> kernels.swigluBackward(stream, in.at(0), in.at(1), out.at(0), out.optional(1));
            case Op.CrossEntropy op ->
                kernels.crossEntropy(stream, in.at(0), in.at(1), in.at(2), out.at(0), op.gradient(), op.accumulate());
            case Op.CrossEntropyPart op -> kernels.crossEntropyPart(stream, in.at(0), in.at(1), op.first(), out.at(0));
            case Op.CrossEntropyWhole op ->
                kernels.crossEntropyWhole(
                        stream,
                        in.at(0),
                        in.at(1),
                        in.at(2),
                        in.at(3),
                        op.first(),
                        out.at(0),
                        op.gradient(),
                        op.accumulate());
            case Op.SumSquares op -> kernels.sumSquares(stream, in.at(0), out.at(0), op.accumulate());
            case Op.ClipFactor op -> kernels.clipFactor(stream, in.at(0), in.at(1), in.at(2), op.maxNorm(), out.at(0));
            case Op.AdamW op ->
                kernels.adamw(
                        stream,
                        out.at(0),
                        out.at(1),
                        out.at(2),
                        in.at(0),
                        out.at(3),
                        in.at(1),
                        in.at(2),
                        op.decayed(),
                        op.beta1(),
                        op.beta2(),
                        op.epsilon(),
                        op.weightDecay(),
                        op.first());
            case Op.Zero _ -> kernels.zero(stream, out.at(0));
            case Op.Copy _ -> kernels.copy(stream, in.at(0), out.at(0));
            case Op.Cast _ -> kernels.cast(stream, in.at(0), out.at(0));
            case Op.Add _ -> kernels.add(stream, in.at(0), out.at(0));
            case Op.AllReduce _ -> communicator.allReduce(stream, out.at(0));
            case Op.ReduceScatter _ -> communicator.reduceScatter(stream, in.at(0), out.at(0));
            case Op.AllGather _ -> communicator.allGather(stream, in.at(0), out.at(0));
            case Op.Send op -> communicator.send(stream, in.at(0), op.rank());
            case Op.Receive op -> communicator.receive(stream, out.at(0), op.rank());
        }
    }

    /// The tensors of one side of a call.
    private final class Arguments {
        private final List<Integer> ids;

        Arguments(List<Integer> ids) {
            this.ids = ids;
        }

        Tensor at(int i) {
            return tensors[ids.get(i)];
        }

        @Nullable
        Tensor optional(int i) {
            return i >= ids.size() || ids.get(i) < 0 ? null : at(i);
        }
    }
}
