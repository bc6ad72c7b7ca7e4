package troika.plan;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.stream.IntStream;
import troika.graph.Op;

/// A transfer that its participants start together, and what it then moves: phases one behind the other,
/// each of flows at the same time.
final class Meeting {
    /// A rank that has come.
    record Arrival(RankProgram program, Call call) {
        int rank() {
            return program.rank();
        }

        double bytes(List<Integer> tensors) {
            return (double) program.tensors().get(tensors.getFirst()).bytes();
        }
    }

    private final Links links;
    private final boolean staged;
    private final int size;
    private final List<Integer> ranks;
    private final List<Arrival> arrivals = new ArrayList<>();

    /// @param ranks those that take part, in the order of their group
    Meeting(Links links, CostModel.Transport transport, List<Integer> ranks) {
        this.links = links;
        this.staged = transport == CostModel.Transport.STAGED;
        this.size = ranks.size();
        this.ranks = ranks;
    }

    /// The ranks that a collective, or a transfer, of a rank needs, in the order of their group.
    ///
    /// @param ranks of the whole program
    static List<Integer> group(RankProgram program, Op op, int ranks) {
        return switch (op) {
            case Op.Send send -> List.of(program.rank(), send.rank());
            case Op.Receive receive -> List.of(receive.rank(), program.rank());
            case Op.AllReduce reduce -> axis(program, reduce.axis(), ranks);
            case Op.ReduceScatter scatter -> axis(program, scatter.axis(), ranks);
            case Op.AllGather gather -> axis(program, gather.axis(), ranks);
            default -> throw new IllegalArgumentException(op + " moves nothing between ranks");
        };
    }

    private static List<Integer> axis(RankProgram program, String name, int ranks) {
        if (program.axes().isEmpty()) {
            return IntStream.range(0, ranks).boxed().toList();
        }
        return program.axes().stream()
                .filter(axis -> axis.name().equals(name))
                .findFirst()
                .orElseThrow(() ->
                        new IllegalArgumentException("rank " + program.rank() + " is in no group of axis " + name))
                .ranks();
    }

    /// What the calls have in common that meet each other: the k-th of one rank meets the k-th of another.
    ///
    /// @param group of [#group]
    static List<Object> key(Op op, List<Integer> group) {
        String axis = switch (op) {
            case Op.AllReduce reduce -> reduce.axis();
            case Op.ReduceScatter scatter -> scatter.axis();
            case Op.AllGather gather -> gather.axis();
            // A pair of ranks: it needs no name.
            default -> "";
        };
        return List.of(axis, group);
    }

    /// Notes a rank; returns whether all are there.
    boolean join(RankProgram program, Call call) {
        arrivals.add(new Arrival(program, call));
        return arrivals.size() == size;
    }

    /// What is moved, once all are there.
    List<List<Links.Flow>> phases() {
        arrivals.sort(Comparator.comparingInt(arrival -> ranks.indexOf(arrival.rank())));
        Arrival first = arrivals.getFirst();
        boolean pair = first.call().op() instanceof Op.Send || first.call().op() instanceof Op.Receive;
        for (Arrival other : arrivals) {
            if (!pair && other.call().op().getClass() != first.call().op().getClass()) {
                throw new IllegalArgumentException(
                        "rank " + first.rank() + " has " + first.call().op()
                                + " where rank " + other.rank() + " has "
                                + other.call().op());
            }
        }
        if (pair) {
            return send(first, arrivals.getLast());
        }
        double[] shards = new double[size];
        for (int i = 0; i < size; i++) {
            Arrival arrival = arrivals.get(i);
            Call call = arrival.call();
            shards[i] = switch (call.op()) {
                case Op.AllGather _ -> arrival.bytes(call.inputs());
                case Op.ReduceScatter _ -> arrival.bytes(call.outputs());
                case Op.AllReduce _ -> arrival.bytes(call.outputs()) / size;
                default -> throw new IllegalArgumentException(call.op() + " is no collective");
            };
        }
        return switch (first.call().op()) {
            case Op.AllGather _ -> gather(shards);
            case Op.ReduceScatter _ -> scatter(shards);
            case Op.AllReduce _ -> {
                List<List<Links.Flow>> both = new ArrayList<>(scatter(shards));
                both.addAll(gather(shards));
                yield both;
            }
            default -> throw new IllegalArgumentException(first.call().op() + " is no collective");
        };
    }

    private List<List<Links.Flow>> gather(double[] shards) {
        double full = sum(shards);
        List<Links.Flow> up = new ArrayList<>();
        List<Links.Flow> down = new ArrayList<>();
        List<Links.Flow> across = new ArrayList<>();
        for (int i = 0; i < size && size > 1; i++) {
            up.add(links.toHost(rank(i), shards[i]));
            down.add(links.fromHost(rank(i), full - shards[i]));
            for (int j = 0; j < size; j++) {
                if (j != i) {
                    across.add(links.between(rank(i), rank(j), shards[i]));
                }
            }
        }
        return List.of(staged ? both(up, down) : across);
    }

    private List<List<Links.Flow>> scatter(double[] shards) {
        double full = sum(shards);
        List<Links.Flow> up = new ArrayList<>();
        List<Links.Flow> down = new ArrayList<>();
        List<Links.Flow> across = new ArrayList<>();
        List<Links.Flow> sums = new ArrayList<>();
        for (int i = 0; i < size && size > 1; i++) {
            up.add(links.toHost(rank(i), full - shards[i]));
            down.add(links.fromHost(rank(i), (size - 1) * shards[i]));
            sums.add(links.onCard(rank(i), (size + 1) * shards[i]));
            for (int j = 0; j < size; j++) {
                if (j != i) {
                    across.add(links.between(rank(i), rank(j), shards[j]));
                }
            }
        }
        return List.of(staged ? both(up, down) : across, sums);
    }

    private List<List<Links.Flow>> send(Arrival from, Arrival to) {
        double bytes = from.bytes(from.call().inputs());
        double room = to.bytes(to.call().outputs());
        if (bytes != room) {
            throw new IllegalArgumentException("rank " + from.rank() + " sends " + (long) bytes + " bytes where rank "
                    + to.rank() + " receives " + (long) room);
        }
        return staged
                ? List.of(List.of(links.toHost(from.rank(), bytes), links.fromHost(to.rank(), bytes)))
                : List.of(List.of(links.between(from.rank(), to.rank(), bytes)));
    }

    /// Staged copies go in pieces, up and down at the same time.
    private static List<Links.Flow> both(List<Links.Flow> up, List<Links.Flow> down) {
        List<Links.Flow> both = new ArrayList<>(up);
        both.addAll(down);
        return both;
    }

    private int rank(int i) {
        return arrivals.get(i).rank();
    }

    private static double sum(double[] numbers) {
        double sum = 0;
        for (double number : numbers) {
            sum += number;
        }
        return sum;
    }
}
