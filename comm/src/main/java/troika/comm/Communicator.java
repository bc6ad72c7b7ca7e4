package troika.comm;

import troika.tensor.Stream;
import troika.tensor.Tensor;

/// A rank's end of a group of ranks. All ranks of the group call the same collectives in the same
/// order; each is asynchronous on a stream. Sums are made in the order of ranks, so that all ranks
/// hold the same bits, on every call.
public interface Communicator extends AutoCloseable {
    int rank();

    int size();

    /// Sums a tensor over the ranks, in place: in fp32, in the order of ranks, rounded once.
    ///
    /// @param tensor F32, BF16 or F16 `[n]`, n alike on all ranks
    void allReduce(Stream stream, Tensor tensor);

    /// Sums tensors over the ranks, as [#allReduce] does, and leaves each rank its part of the sum.
    ///
    /// @param full F32, BF16 or F16 `[n]`; its content is undefined afterwards but for the shard
    /// @param shard of the same dtype; the shards of all ranks, one behind the other, are `[n]`. It may be this
    /// rank's part of `full` and must not otherwise overlap it
    void reduceScatter(Stream stream, Tensor full, Tensor shard);

    /// Collects the shards of all ranks.
    ///
    /// @param shard of any dtype and of a size of its own; it may be this rank's part of `full` and must not
    /// otherwise overlap it
    /// @param full `[n]` of the same dtype: all shards one behind the other
    void allGather(Stream stream, Tensor shard, Tensor full);

    /// Sends a tensor to a rank of the group, which receives it. What one rank sends to another arrives in order.
    void send(Stream stream, Tensor tensor, int peer);

    /// Receives what a rank of the group sends: a tensor of the same dtype and size.
    void receive(Stream stream, Tensor tensor, int peer);

    /// Whether calls may stand between [Stream#beginCapture] and its end.
    boolean capturable();

    /// Makes all collectives of the group, under way and to come, fail with this cause instead of waiting
    /// forever.
    void abort(Throwable cause);

    /// Bytes that this rank has read from other ranks' memory so far.
    long bytesReceived();

    @Override
    void close();
}
