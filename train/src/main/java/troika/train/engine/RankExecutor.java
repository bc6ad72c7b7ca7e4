package troika.train.engine;

import java.util.Arrays;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import troika.comm.Communicator;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.tensor.Device;
import troika.tensor.Event;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Executes a rank's programs: issues their instructions in order, each to its lane's stream, with events
/// where another lane waits. Used by one thread, the rank's.
final class RankExecutor implements AutoCloseable {
    private final RankMemory memory;
    private final Map<Lane, Stream> streams = new EnumMap<>(Lane.class);
    private final Prepared[] programs;
    private @Nullable Prepared last;

    /// A program with all that a step needs made beforehand, since a step allocates nothing.
    private static final class Prepared {
        private final Instruction[] instructions;
        private final Stream[] streams;
        private final Stream.@Nullable Graph[] graphs;
        /// By instruction: reached when it is done; null where nobody waits.
        private final @Nullable Event[] done;
        private final Event[][] waits;
        private final Dispatch dispatch;
        private final int report;

        Prepared(RankProgram program, Dispatch dispatch, Map<Lane, Stream> lanes, Device device, boolean capture) {
            this.dispatch = dispatch;
            instructions = program.instructions().toArray(Instruction[]::new);
            int count = instructions.length;
            streams = new Stream[count];
            graphs = new Stream.Graph[count];
            done = new Event[count];
            waits = new Event[count][];
            int lastReport = -1;
            for (Instruction instruction : instructions) {
                for (List<Integer> needed : List.of(instruction.after(), instruction.afterPrevious())) {
                    for (int id : needed) {
                        if (done[id] == null) {
                            done[id] = device.event();
                        }
                    }
                }
                if (instruction.kind() == Instruction.Kind.REPORT) {
                    lastReport = instruction.id();
                }
            }
            report = lastReport;
            if (done[report] == null) {
                done[report] = device.event();
            }
            for (int i = 0; i < count; i++) {
                Instruction instruction = instructions[i];
                streams[i] = stream(lanes, instruction.lane());
                waits[i] = events(instruction);
                if (capture) {
                    streams[i].beginCapture();
                    dispatch.calls(streams[i], instruction.calls());
                    graphs[i] = streams[i].endCapture();
                }
            }
        }

        private Event[] events(Instruction instruction) {
            // Events know the latest record issued before the wait, so both kinds of dependency are the
            // same here: an
            // instruction further on in issue order has been recorded in the previous execution only.
            return java.util.stream.Stream.concat(instruction.after().stream(), instruction.afterPrevious().stream())
                    .map(id -> done[id])
                    .toArray(Event[]::new);
        }

        private void issue() {
            for (int i = 0; i < instructions.length; i++) {
                Stream stream = streams[i];
                for (Event event : waits[i]) {
                    stream.await(event);
                }
                Stream.Graph graph = graphs[i];
                if (graph != null) {
                    stream.launch(graph);
                } else {
                    dispatch.calls(stream, instructions[i].calls());
                }
                Event event = done[i];
                if (event != null) {
                    stream.record(event);
                }
            }
        }
    }

    /// @param capture whether instructions are captured once and then launched, rather than dispatched
    /// each time
    RankExecutor(
            List<RankProgram> programs, RankMemory memory, Device device, Communicator communicator, boolean capture) {
        this.memory = memory;
        Tensor workspace = memory.tensor(programs.getFirst().tensor("workspace:" + Lane.COMPUTE));
        for (Lane lane : Lane.values()) {
            String name = lane.name().toLowerCase(Locale.ROOT) + " "
                    + programs.getFirst().rank();
            streams.put(lane, device.stream(name, lane == Lane.COMPUTE ? workspace : null));
        }
        this.programs = new Prepared[programs.size()];
        for (int i = 0; i < this.programs.length; i++) {
            RankProgram program = programs.get(i);
            Dispatch dispatch = new Dispatch(device.kernels(), communicator, memory.tensors(program));
            this.programs[i] = new Prepared(program, dispatch, streams, device, capture);
        }
    }

    RankMemory memory() {
        return memory;
    }

    /// Issues the program and waits until its report has reached the host; other lanes may still be
    /// working.
    void execute(int program) {
        Prepared prepared = programs[program];
        if (last != prepared) {
            // Dependencies are known within a program and to its own previous execution, not across
            // programs.
            drain();
            last = prepared;
        }
        prepared.issue();
        Event reported = prepared.done[prepared.report];
        if (reported != null) {
            reported.synchronize();
        }
    }

    /// Waits until nothing is under way.
    void drain() {
        streams.values().forEach(Stream::synchronize);
    }

    /// Executes the program instruction by instruction, but for the update, and looks at all that they
    /// write.
    ///
    /// @return what was not finite first, or null
    @Nullable
    NonFinite findNonFinite(int program, Inspector inspector) {
        drain();
        Prepared prepared = programs[program];
        NonFinite found = null;
        for (Instruction instruction : prepared.instructions) {
            if (instruction.kind() == Instruction.Kind.UPDATE || instruction.kind() == Instruction.Kind.GATHER) {
                continue;
            }
            // Collectives need all ranks, so the walk goes on after a find.
            Stream stream = stream(streams, instruction.lane());
            for (Call call : instruction.calls()) {
                prepared.dispatch.call(stream, call);
                stream.synchronize();
                for (int output : call.outputs()) {
                    if (found == null && !inspector.finite(prepared.dispatch.tensor(output))) {
                        found = new NonFinite(instruction, output);
                    }
                }
            }
        }
        return found;
    }

    /// A tensor that is not finite, and the instruction that wrote it.
    record NonFinite(Instruction instruction, int tensor) {}

    /// Looks at a tensor's elements.
    interface Inspector {
        boolean finite(Tensor tensor);
    }

    @Override
    public void close() {
        streams.values().forEach(Stream::close);
        Arrays.fill(programs, null);
        memory.close();
    }

    private static Stream stream(Map<Lane, Stream> streams, Lane lane) {
        Stream stream = streams.get(lane);
        if (stream == null) {
            throw new IllegalStateException("no stream for lane " + lane);
        }
        return stream;
    }
}
