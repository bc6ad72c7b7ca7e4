package troika.train.engine;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.function.Function;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import troika.comm.Communicator;
import troika.graph.Op;
import troika.plan.Instruction;
import troika.plan.RankProgram;
import troika.plan.RankProgram.Axis;
import troika.plan.StepProgram;
import troika.tensor.Device;

/// All groups that some programs' ranks have collectives in, each made once.
///
/// Two axes are two groups though their ranks be the same, since they may be used from two lanes. Send and
/// Receive have a group of their own over all ranks, if there are any.
final class Groups implements AutoCloseable {
    private final Map<Axis, List<Communicator>> groups = new LinkedHashMap<>();
    private @Nullable List<Communicator> transfers;
    /// By program and rank.
    private final List<List<Ends>> ends = new ArrayList<>();

    /// @param devices by rank
    /// @param factory makes the communicators of a group, by rank of the group, from its devices
    Groups(List<StepProgram> programs, List<Device> devices, Function<List<Device>, List<Communicator>> factory) {
        try {
            for (StepProgram step : programs) {
                List<Ends> own = new ArrayList<>();
                for (RankProgram program : step.ranks()) {
                    own.add(ends(step, program, devices, factory));
                }
                ends.add(own);
            }
        } catch (RuntimeException e) {
            close();
            throw e;
        }
    }

    private Ends ends(
            StepProgram step,
            RankProgram program,
            List<Device> devices,
            Function<List<Device>, List<Communicator>> factory) {
        Map<String, Communicator> own = new HashMap<>();
        for (Axis axis : program.axes()) {
            check(step, program.rank(), axis);
            own.put(axis.name(), end(axis, program.rank(), devices, factory));
        }
        boolean transferring = false;
        for (Instruction instruction : program.instructions()) {
            for (var call : instruction.calls()) {
                String name = axis(call.op());
                if (name != null && !own.containsKey(name)) {
                    List<Integer> world =
                            IntStream.range(0, devices.size()).boxed().toList();
                    own.put(name, end(new Axis(name, world), program.rank(), devices, factory));
                }
                transferring |= call.op() instanceof Op.Send || call.op() instanceof Op.Receive;
            }
        }
        if (transferring && transfers == null) {
            transfers = factory.apply(devices);
        }
        return new Ends(program.rank(), own, transferring && transfers != null ? transfers.get(program.rank()) : null);
    }

    private Communicator end(
            Axis axis, int rank, List<Device> devices, Function<List<Device>, List<Communicator>> factory) {
        return groups.computeIfAbsent(
                        axis,
                        _ -> factory.apply(
                                axis.ranks().stream().map(devices::get).toList()))
                .get(axis.ranks().indexOf(rank));
    }

    /// All members of a group must know it as the same, or they would wait for one another for ever.
    private static void check(StepProgram step, int rank, Axis axis) {
        if (!axis.ranks().contains(rank)) {
            throw new IllegalArgumentException("rank " + rank + " of program " + step.name() + " is not on its axis "
                    + axis.name() + " of ranks " + axis.ranks());
        }
        for (int member : axis.ranks()) {
            if (member < 0
                    || member >= step.ranks().size()
                    || !step.ranks().get(member).axes().contains(axis)) {
                throw new IllegalArgumentException("rank " + rank + " of program " + step.name() + " has an axis "
                        + axis.name() + " of ranks " + axis.ranks() + ", which rank " + member + " does not have");
            }
        }
    }

    private static @Nullable String axis(Op op) {
        return switch (op) {
            case Op.AllReduce reduce -> reduce.axis();
            case Op.ReduceScatter scatter -> scatter.axis();
            case Op.AllGather gather -> gather.axis();
            default -> null;
        };
    }

    /// A rank's ends of the groups that a program of it uses.
    ///
    /// @param axes by name
    /// @param transfers over the ranks of the world; null where the program has no Send and no Receive
    record Ends(
            int rank,
            Map<String, Communicator> axes,
            @Nullable Communicator transfers) {
        Communicator axis(String name) {
            Communicator communicator = axes.get(name);
            if (communicator == null) {
                throw new IllegalStateException("rank " + rank + " has no axis " + name);
            }
            return communicator;
        }

        Communicator world() {
            if (transfers == null) {
                throw new IllegalStateException("rank " + rank + " has no transfers");
            }
            return transfers;
        }

        /// Whether an op may be captured.
        boolean capturable(Op op) {
            String name = Groups.axis(op);
            return name != null ? axis(name).capturable() : !op.collective() || world().capturable();
        }
    }

    /// What a rank has of the groups in a program, by the program's index.
    Ends of(int program, int rank) {
        return ends.get(program).get(rank);
    }

    /// Makes all that is under way in any group, or to come, fail. At once: the end of one group may wait for what
    /// another has under way on the same device.
    void abort(Throwable cause) {
        List<Communicator> firsts = new ArrayList<>();
        groups.values().forEach(group -> firsts.add(group.getFirst()));
        if (transfers != null) {
            firsts.add(transfers.getFirst());
        }
        try (var threads =
                Executors.newThreadPerTaskExecutor(Thread.ofPlatform().daemon().factory())) {
            for (Communicator communicator : firsts) {
                try {
                    threads.execute(() -> communicator.abort(cause));
                } catch (OutOfMemoryError e) {
                    // That there are no more threads may be what has failed.
                    communicator.abort(cause);
                }
            }
        }
    }

    /// Bytes that a rank has received so far, in all groups.
    long bytesReceived(int rank) {
        long bytes = 0;
        for (var group : groups.entrySet()) {
            int index = group.getKey().ranks().indexOf(rank);
            bytes += index < 0 ? 0 : group.getValue().get(index).bytesReceived();
        }
        return bytes + (transfers == null ? 0 : transfers.get(rank).bytesReceived());
    }

    private List<Communicator> all() {
        List<Communicator> all = new ArrayList<>();
        groups.values().forEach(all::addAll);
        if (transfers != null) {
            all.addAll(transfers);
        }
        return all;
    }

    @Override
    public void close() {
        all().forEach(Communicator::close);
    }
}
