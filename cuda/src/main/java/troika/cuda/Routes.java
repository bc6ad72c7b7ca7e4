package troika.cuda;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/// The routes between the ranks of a group, the same in both directions of a pair.
///
/// @param table by rank and rank; of a rank and itself it is not used
record Routes(List<List<Route>> table) {
    /// Set to "staged", ranks of one card and of cards that reach each other go through host memory too.
    static final String PROPERTY = "troika.cuda.transport";

    /// Something of two ranks, of which the first is the lower.
    interface OfPair<T> {
        T of(int a, int b);
    }

    static Routes of(int ranks, OfPair<Route> routes) {
        return new Routes(IntStream.range(0, ranks)
                .mapToObj(a -> IntStream.range(0, ranks)
                        .mapToObj(b -> a == b ? Route.DIRECT : routes.of(Math.min(a, b), Math.max(a, b)))
                        .toList())
                .toList());
    }

    /// Whether the property asks for host memory everywhere.
    static boolean stagedByProperty() {
        String wanted = System.getProperty(PROPERTY, "");
        if (!wanted.isEmpty() && !wanted.equals("staged")) {
            throw new IllegalArgumentException("-D" + PROPERTY + "=" + wanted + ": it can be staged");
        }
        return wanted.equals("staged");
    }

    /// What is worth trying, each once. The rate that a route has alone does not tell what it takes from the
    /// others, where they share a link, a switch or the host's memory; so whole tables are to be compared:
    ///
    /// 1. Directly where cards reach each other, otherwise through the host.
    /// 2. Directly where cards reach each other, otherwise over a card that reaches both.
    /// 3. Each pair by the route that is the fastest alone.
    /// 4. Through the host, all but ranks that share a card.
    static List<Routes> candidates(int ranks, OfPair<CardPath> paths) {
        Set<Routes> all = new LinkedHashSet<>();
        all.add(of(ranks, (a, b) -> paths.of(a, b).direct() ? Route.DIRECT : Route.HOST));
        all.add(of(ranks, (a, b) -> paths.of(a, b).direct() ? Route.DIRECT : hop(ranks, a, b, paths).route));
        all.add(of(ranks, (a, b) -> fastest(ranks, a, b, paths)));
        all.add(of(ranks, (a, b) -> paths.of(a, b).shared() ? Route.DIRECT : Route.HOST));
        return List.copyOf(all);
    }

    private record Rated(Route route, double bytesPerSecond) {}

    private static Route fastest(int ranks, int a, int b, OfPair<CardPath> paths) {
        CardPath path = paths.of(a, b);
        Rated hop = hop(ranks, a, b, paths);
        if (path.direct() && path.directRate() >= Math.max(path.hostRate(), hop.bytesPerSecond)) {
            return Route.DIRECT;
        }
        return path.hostRate() >= hop.bytesPerSecond ? Route.HOST : hop.route;
    }

    /// Over the best third card, or through the host where none reaches both.
    private static Rated hop(int ranks, int a, int b, OfPair<CardPath> paths) {
        Rated best = new Rated(Route.HOST, 0);
        for (int over = 0; over < ranks; over++) {
            if (over != a && over != b) {
                CardPath to = paths.of(Math.min(a, over), Math.max(a, over));
                CardPath from = paths.of(Math.min(over, b), Math.max(over, b));
                double rate = Math.min(to.directRate(), from.directRate());
                if (to.direct() && from.direct() && rate > best.bytesPerSecond) {
                    best = new Rated(Route.over(over), rate);
                }
            }
        }
        return best;
    }

    int ranks() {
        return table.size();
    }

    Route between(int a, int b) {
        return table.get(a).get(b);
    }

    /// Whether all ranks read each other's memory where it lies.
    boolean allDirect() {
        return table.stream().flatMap(List::stream).allMatch(Route::direct);
    }

    /// Whether any two ranks do.
    boolean anyDirect() {
        return IntStream.range(0, ranks())
                .anyMatch(a -> IntStream.range(0, a).anyMatch(b -> between(a, b).direct()));
    }

    /// Such as "directly", or "directly (ranks 0-1, 0-2), over rank 0's card (ranks 1-2)".
    @Override
    public String toString() {
        Map<Route, List<String>> pairs = new LinkedHashMap<>();
        for (int a = 0; a < ranks(); a++) {
            for (int b = a + 1; b < ranks(); b++) {
                pairs.computeIfAbsent(between(a, b), _ -> new ArrayList<>()).add(a + "-" + b);
            }
        }
        if (pairs.size() == 1) {
            return pairs.keySet().iterator().next().toString();
        }
        return pairs.entrySet().stream()
                .map(each -> each.getKey() + " (ranks " + String.join(", ", each.getValue()) + ")")
                .collect(Collectors.joining(", "));
    }
}
