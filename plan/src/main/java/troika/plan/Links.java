package troika.plan;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Bytes on their way over what a machine's cards share. Each of a flow's resources gives equal parts to the
/// flows that use it, and the least of these parts is the flow's rate.
final class Links {
    /// A fraction of a byte that rounding may leave of a flow.
    private static final double LEFT_OVER = 1e-3;

    private static final int HOST = 0;
    private static final int OF_A_CARD = 3;

    /// One run of bytes over all its resources at once.
    static final class Flow {
        private final int[] resources;
        private double bytes;
        private double rate;
        private @Nullable Phase phase;

        private Flow(double bytes, int... resources) {
            this.bytes = bytes;
            this.resources = resources;
        }
    }

    /// Flows that something waits for together.
    private static final class Phase {
        private final Runnable then;
        private int left;

        Phase(int flows, Runnable then) {
            this.left = flows;
            this.then = then;
        }
    }

    private final CostModel cost;
    private final double[] capacities;
    private final List<Flow> flows = new ArrayList<>();

    Links(CostModel cost) {
        this.cost = cost;
        int cards = cost.cards().size();
        capacities = new double[1 + OF_A_CARD * cards + 2 * cost.roots().size()];
        capacities[HOST] = cost.hostBytesPerSecond();
        for (int rank = 0; rank < cards; rank++) {
            CostModel.Card card = cost.cards().get(rank);
            capacities[up(rank)] = card.upBytesPerSecond();
            capacities[down(rank)] = card.downBytesPerSecond();
            capacities[memory(rank)] = card.bytesPerSecond();
        }
        for (int root = 0; root < cost.roots().size(); root++) {
            capacities[1 + OF_A_CARD * cards + 2 * root] = cost.roots().get(root);
            capacities[1 + OF_A_CARD * cards + 2 * root + 1] = cost.roots().get(root);
        }
    }

    private static int up(int rank) {
        return 1 + OF_A_CARD * rank;
    }

    private static int down(int rank) {
        return 2 + OF_A_CARD * rank;
    }

    private static int memory(int rank) {
        return 3 + OF_A_CARD * rank;
    }

    /// The root's resource for one direction; the link itself, again, where the card shares none.
    private int root(int rank, int link, int direction) {
        int root = cost.cards().get(rank).root();
        return root < 0 ? link : 1 + OF_A_CARD * cost.cards().size() + 2 * root + direction;
    }

    /// From a card's memory to the host's.
    Flow toHost(int rank, double bytes) {
        return new Flow(bytes, up(rank), root(rank, up(rank), 0), HOST);
    }

    /// From the host's memory to a card's.
    Flow fromHost(int rank, double bytes) {
        return new Flow(bytes, down(rank), root(rank, down(rank), 1), HOST);
    }

    /// From card to card.
    Flow between(int from, int to, double bytes) {
        return new Flow(bytes, up(from), root(from, up(from), 0), down(to), root(to, down(to), 1));
    }

    /// Read or written on a card, by a collective's own kernels.
    Flow onCard(int rank, double bytes) {
        return new Flow(bytes, memory(rank));
    }

    /// Starts flows.
    ///
    /// @param then what is to be done when all are
    void start(List<Flow> started, Runnable then) {
        Phase phase = new Phase(started.size(), then);
        for (Flow flow : started) {
            flow.phase = phase;
            flows.add(flow);
        }
        share();
    }

    private void share() {
        int[] users = new int[capacities.length];
        for (Flow flow : flows) {
            Arrays.stream(flow.resources).distinct().forEach(resource -> users[resource]++);
        }
        for (Flow flow : flows) {
            flow.rate = Arrays.stream(flow.resources)
                    .mapToDouble(resource -> capacities[resource] / users[resource])
                    .min()
                    .orElseThrow();
        }
    }

    /// Seconds until the next flow is done, infinite where there is none.
    double untilNext() {
        return flows.stream().mapToDouble(flow -> flow.bytes / flow.rate).min().orElse(Double.POSITIVE_INFINITY);
    }

    /// Lets time pass, at most until the next flow is done; returns what is to be done then.
    List<Runnable> pass(double seconds) {
        List<Runnable> then = new ArrayList<>();
        int before = flows.size();
        for (Iterator<Flow> each = flows.iterator(); each.hasNext(); ) {
            Flow flow = each.next();
            flow.bytes -= flow.rate * seconds;
            if (flow.bytes <= LEFT_OVER) {
                each.remove();
                Phase phase = flow.phase;
                if (phase != null && --phase.left == 0) {
                    then.add(phase.then);
                }
            }
        }
        if (flows.size() < before) {
            share();
        }
        return then;
    }
}
