package troika.cuda;

import java.util.List;

/// Memory in which a rank puts down what others pick up, where they do not read its own: pinned host memory,
/// or on a third rank's card.
///
/// @param device through whose context it was taken
record Store(long address, boolean host, CudaDevice device) {
    /// Takes memory; the rank's own context is the current one before and after it.
    ///
    /// @param route not a direct one
    /// @param ranks of the group
    static Store take(Route route, int rank, List<CudaDevice> ranks, long bytes) {
        CudaDevice own = ranks.get(rank);
        if (route.kind() == Route.Kind.HOST) {
            return new Store(Driver.memHostAlloc(bytes), true, own);
        }
        CudaDevice over = ranks.get(route.over());
        over.bind();
        try {
            return new Store(Driver.memAlloc(bytes), false, over);
        } finally {
            own.bind();
        }
    }

    void free() {
        device.release(() -> {
            if (host) {
                Driver.memFreeHost(address);
            } else {
                Driver.memFree(address);
            }
        });
    }
}
