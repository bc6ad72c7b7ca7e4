package troika.cuda;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

/// Meetings of all threads of a group, one behind the other: what a thread did before a meeting, all others
/// see after it.
final class Meeting {
    private final Rendezvous rendezvous;
    private final boolean[] here;
    private final AtomicLong held = new AtomicLong();
    private int waiting;

    Meeting(int ranks, Rendezvous rendezvous) {
        here = new boolean[ranks];
        this.rendezvous = rendezvous;
    }

    /// Waits until all ranks are here.
    ///
    /// @param collective whose text says what this rank is doing
    void meet(int rank, Object collective) {
        long mine = held.get();
        rendezvous.change(() -> {
            here[rank] = true;
            if (++waiting == here.length) {
                waiting = 0;
                Arrays.fill(here, false);
                held.incrementAndGet();
            }
        });
        rendezvous.await(
                () -> held.get() != mine, () -> "rank " + rank + " waits in " + collective + " for " + absent());
    }

    private String absent() {
        List<String> absent = new ArrayList<>();
        for (int i = 0; i < here.length; i++) {
            if (!here[i]) {
                absent.add("rank " + i);
            }
        }
        return String.join(", ", absent);
    }
}
