package troika.comm;

import troika.tensor.Stream;
import troika.tensor.Tensor;

/// A rank's end of a group of ranks. All ranks of the group call the same collectives in the same
/// order; each is asynchronous on a stream. Sums are made in the order of ranks, so that all ranks
/// hold the same bits, on every call.
public interface Communicator extends AutoCloseable {
    int rank();

    int size();

    /// Sums a tensor over the ranks, in place.
    ///
    /// @param tensor F32 `[n]`, n alike on all ranks
    void allReduce(Stream stream, Tensor tensor);

    /// Sums tensors over the ranks and leaves each rank its part of the sum.
    ///
    /// @param full F32 `[n]`, n divisible by the number of ranks; its content is undefined
    /// afterwards but for the shard
    /// @param shard F32 `[n / size]`; it may be this rank's part of `full` and must not otherwise
    /// overlap it
    void reduceScatter(Stream stream, Tensor full, Tensor shard);

    /// Collects the shards of all ranks.
    ///
    /// @param shard `[n / size]` of any dtype; it may be this rank's part of `full` and must not otherwise
    /// overlap it
    /// @param full `[n]` of the same dtype
    void allGather(Stream stream, Tensor shard, Tensor full);

    /// Makes all collectives of the group, under way and to come, fail with this cause instead of waiting
    /// forever.
    void abort(Throwable cause);

    /// Bytes that this rank has read from other ranks' memory so far.
    long bytesReceived();

    @Override
    void close();
}
