package troika.cuda;

import troika.tensor.Tensor;

/// What must hold of a collective's arguments on one rank; IllegalArgumentException says what does not.
final class CollectiveArguments {
    private CollectiveArguments() {}

    static void sum(Tensor tensor) {
        if (!tensor.dtype().isFloating()) {
            throw new IllegalArgumentException("there are no sums of " + tensor.dtype());
        }
    }

    static void part(Tensor part, Tensor full) {
        if (part.dtype() != full.dtype() || part.elements() > full.elements()) {
            throw new IllegalArgumentException(
                    part.dtype() + "" + part.shape() + " is no part of " + full.dtype() + full.shape());
        }
    }

    static void peer(int peer, int rank, int size) {
        if (peer < 0 || peer >= size || peer == rank) {
            throw new IllegalArgumentException("rank " + rank + " of " + size + " has no peer " + peer);
        }
    }
}
