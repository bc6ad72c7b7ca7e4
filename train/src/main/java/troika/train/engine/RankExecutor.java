package troika.train.engine;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.tensor.Device;
import troika.tensor.DeviceException;
import troika.tensor.Event;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Executes a rank's programs: issues their instructions in order, each to its lane's stream, with events
/// where another lane waits. Used by one thread, the rank's.
final class RankExecutor implements AutoCloseable {
    private final Arenas memory;
    private final Map<Lane, Stream> streams = new EnumMap<>(Lane.class);
    private final Prepared[] programs;
    private final Device device;
    private @Nullable Prepared last;
    private @Nullable Prepared timed;
    private @Nullable Stopwatch stopwatch;

    /// A program with all that a step needs made beforehand, since a step allocates nothing.
    private static final class Prepared {
        private final List<Instruction> instructions;
        private final List<Segment> segments = new ArrayList<>();
        private final Dispatch dispatch;
        private final Marks marks;
        private final boolean checked;
        private final @Nullable Event reported;
        /// Of the latest execution that was not timed; 0 before.
        private long issueNanos;

        Prepared(
                RankProgram program,
                Groups.Ends groups,
                Dispatch dispatch,
                Marks marks,
                Map<Lane, Stream> lanes,
                Device device,
                boolean capture,
                boolean checked) {
            this.dispatch = dispatch;
            this.marks = marks;
            this.checked = checked;
            instructions = program.instructions();
            @Nullable Event[] done = new Event[instructions.size()];
            Event reported = null;
            for (Instruction instruction : instructions) {
                for (List<Integer> needed : List.of(instruction.after(), instruction.afterPrevious())) {
                    for (int id : needed) {
                        if (done[id] == null) {
                            done[id] = device.event();
                        }
                    }
                }
            }
            for (Instruction instruction : instructions) {
                if (instruction.kind() == Instruction.Kind.REPORT) {
                    Event own = done[instruction.id()];
                    reported = own != null ? own : device.event();
                    done[instruction.id()] = reported;
                }
            }
            this.reported = reported;
            Predicate<Instruction> captured = instruction ->
                    capture && instruction.calls().stream().allMatch(call -> groups.capturable(call.op()));
            for (List<Instruction> run : runs(instructions, captured)) {
                Instruction first = run.getFirst();
                segments.add(segment(run, stream(lanes, first.lane()), done, captured.test(first)));
            }
        }

        private Segment segment(List<Instruction> run, Stream stream, @Nullable Event[] done, boolean capture) {
            // Events know the latest record issued before the wait, so both kinds of dependency are the
            // same here: an instruction further on in issue order has been recorded in the previous
            // execution only.
            Instruction first = run.getFirst();
            List<Event> waits = new ArrayList<>();
            first.after().forEach(id -> waits.add(present(done[id])));
            first.afterPrevious().forEach(id -> waits.add(present(done[id])));
            List<Event> records = new ArrayList<>();
            Stream.@Nullable Graph graph = null;
            if (capture) {
                stream.beginCapture();
                for (Instruction instruction : run) {
                    for (Call call : instruction.calls()) {
                        call(stream, instruction, call);
                    }
                    if (marks.follows(instruction)) {
                        stream.mark(marks.number(instruction));
                    }
                }
                graph = stream.endCapture();
            }
            for (Instruction instruction : run) {
                Event event = done[instruction.id()];
                if (event != null) {
                    records.add(event);
                }
            }
            return new Segment(run, stream, waits.toArray(Event[]::new), graph, records.toArray(Event[]::new));
        }

        /// Dispatches a call; a failure that shows at once, or is waited for, is this call's.
        private void call(Stream stream, Instruction instruction, Call call) {
            try {
                dispatch.call(stream, call);
                if (checked) {
                    stream.synchronize();
                }
            } catch (DeviceException e) {
                throw new DeviceException(
                        e.getMessage() + ", in " + marks.name(instruction) + ", at " + marks.call(call), e);
            }
        }

        private static Event present(@Nullable Event event) {
            if (event == null) {
                throw new IllegalStateException("an instruction that others wait for has no event");
            }
            return event;
        }

        /// @param watch times the instructions, which are dispatched one by one for that; null: no
        private void issue(@Nullable Stopwatch watch) {
            for (Segment segment : segments) {
                Stream stream = segment.stream;
                for (Event event : segment.waits) {
                    stream.await(event);
                }
                if (segment.graph != null && watch == null) {
                    stream.launch(segment.graph);
                } else {
                    for (Instruction instruction : segment.instructions) {
                        if (watch != null) {
                            watch.begin(stream, instruction);
                        }
                        for (Call call : instruction.calls()) {
                            call(stream, instruction, call);
                        }
                        if (marks.follows(instruction)) {
                            stream.mark(marks.number(instruction));
                        }
                        if (watch != null) {
                            watch.end(stream, instruction);
                        }
                    }
                }
                for (Event event : segment.records) {
                    stream.record(event);
                }
            }
        }
    }

    /// Instructions that are launched as one.
    private record Segment(
            List<Instruction> instructions,
            Stream stream,
            Event[] waits,
            Stream.@Nullable Graph graph,
            Event[] records) {}

    /// Splits a program into runs of instructions that follow one another in issue order and lane. Of a run only the
    /// first waits for something that its lane has not waited for before, and for none but the last do
    /// collectives and transfers wait: thus the next step's first weights are gathered while others are still
    /// updated. A small model is bound by launches, and a run is one.
    ///
    /// @param join whether an instruction may be in a run with others
    static List<List<Instruction>> runs(List<Instruction> instructions, Predicate<Instruction> join) {
        Set<Integer> awaited = new HashSet<>();
        for (Instruction instruction : instructions) {
            if (instruction.lane().betweenRanks()) {
                awaited.addAll(instruction.after());
                awaited.addAll(instruction.afterPrevious());
            }
        }
        List<List<Instruction>> runs = new ArrayList<>();
        Map<Lane, Waited> waited = new EnumMap<>(Lane.class);
        @Nullable Lane lane = null;
        for (Instruction instruction : instructions) {
            boolean waits = waited.computeIfAbsent(instruction.lane(), _ -> new Waited())
                    .add(instruction, instructions);
            boolean joins = join.test(instruction);
            if (!joins || waits || instruction.lane() != lane) {
                runs.add(new ArrayList<>());
            }
            lane = joins && !awaited.contains(instruction.id()) ? instruction.lane() : null;
            runs.getLast().add(instruction);
        }
        return runs;
    }

    /// What a lane has waited for: by other lane, the last instruction of this execution and of the one
    /// before.
    private static final class Waited {
        private final Map<Lane, Integer> same = new EnumMap<>(Lane.class);
        private final Map<Lane, Integer> previous = new EnumMap<>(Lane.class);

        /// Whether the instruction waits for something new.
        boolean add(Instruction instruction, List<Instruction> all) {
            boolean news = false;
            for (int id : instruction.after()) {
                news |= latest(same, all.get(id));
            }
            for (int id : instruction.afterPrevious()) {
                news |= latest(previous, all.get(id));
            }
            return news;
        }

        private static boolean latest(Map<Lane, Integer> known, Instruction needed) {
            Integer before = known.get(needed.lane());
            if (before != null && before >= needed.id()) {
                return false;
            }
            known.put(needed.lane(), needed.id());
            return true;
        }
    }

    /// @param blocks names
    /// @param memory which is given back by [#close], or where this fails
    /// @param groups by program
    /// @param capture whether instructions are captured once and then launched, rather than dispatched
    /// each time; but for those whose communicators cannot be captured
    /// @param checked whether each call that is dispatched is waited for; needs `capture` to be false
    RankExecutor(
            List<RankProgram> programs,
            List<String> blocks,
            Arenas memory,
            Device device,
            List<Groups.Ends> groups,
            boolean capture,
            boolean checked) {
        this.memory = memory;
        this.device = device;
        this.programs = new Prepared[programs.size()];
        try {
            prepare(programs, blocks, groups, capture, checked);
        } catch (RuntimeException | Error e) {
            close();
            throw e;
        }
    }

    private void prepare(
            List<RankProgram> programs,
            List<String> blocks,
            List<Groups.Ends> groups,
            boolean capture,
            boolean checked) {
        for (RankProgram program : programs) {
            for (Instruction instruction : program.instructions()) {
                streams.computeIfAbsent(
                        instruction.lane(),
                        lane -> device.stream(
                                lane.name().toLowerCase(Locale.ROOT) + " " + program.rank(),
                                workspace(programs, lane, memory)));
            }
        }
        int numbers = 0;
        for (int i = 0; i < this.programs.length; i++) {
            RankProgram program = programs.get(i);
            Dispatch dispatch = new Dispatch(device.kernels(), groups.get(i), memory.tensors(program));
            Marks marks = new Marks(program, blocks, numbers);
            numbers += program.instructions().size();
            this.programs[i] = new Prepared(program, groups.get(i), dispatch, marks, streams, device, capture, checked);
        }
    }

    /// The scratch memory of a lane's kernels, or of its communicators, or null. It is the same in all programs
    /// that have it.
    static @Nullable Tensor workspace(List<RankProgram> programs, Lane lane, Arenas memory) {
        String name = workspaceName(lane);
        return programs.stream()
                .flatMap(program -> program.tensors().stream())
                .filter(tensor -> tensor.name().equals(name))
                .findFirst()
                .map(memory::tensor)
                .orElse(null);
    }

    static String workspaceName(Lane lane) {
        return "workspace:" + lane;
    }

    Arenas memory() {
        return memory;
    }

    /// Issues the program and waits until its report has reached the host; other lanes may still be
    /// working. A program that reports nothing is waited for as a whole.
    void execute(int program) {
        Prepared prepared = programs[program];
        if (last != prepared) {
            // Dependencies are known within a program and to its own previous execution, not across
            // programs.
            drain();
            last = prepared;
        }
        Stopwatch watch = stopwatch;
        long began = System.nanoTime();
        if (watch != null && prepared == timed && watch.next()) {
            prepared.issue(watch);
            watch.issued(System.nanoTime() - began);
        } else {
            prepared.issue(null);
            prepared.issueNanos = System.nanoTime() - began;
        }
        if (prepared.reported != null) {
            prepared.reported.synchronize();
        } else {
            drain();
        }
    }

    /// What the rank's thread took to issue the latest execution of the timed program that was not timed; NaN where
    /// there was none.
    double issueSeconds() {
        return timed == null || timed.issueNanos == 0 ? Double.NaN : timed.issueNanos * 1e-9;
    }

    /// Times the next executions of a program; no lane of any rank is at work.
    void time(int program, int executions) {
        timed = programs[program];
        stopwatch = new Stopwatch(timed.instructions, executions, device, stream(streams, Lane.COMPUTE));
    }

    /// What times, or has timed, this rank last.
    Stopwatch stopwatch() {
        if (stopwatch == null) {
            throw new IllegalStateException("nothing was timed");
        }
        return stopwatch;
    }

    /// Where the rank's kernels were when a device failed that was asked only afterwards, in words.
    String where() {
        Prepared prepared = last;
        Stream compute = streams.get(Lane.COMPUTE);
        return prepared == null || prepared.checked || compute == null
                ? ""
                : prepared.marks.where(Lane.COMPUTE, compute.marked());
    }

    /// What has stopped a stream of this rank, or null; without waiting. Any thread may ask.
    @Nullable
    Throwable failure() {
        for (Stream stream : streams.values()) {
            Throwable failure = stream.failure();
            if (failure != null) {
                return failure;
            }
        }
        return null;
    }

    /// Waits until nothing is under way.
    void drain() {
        streams.values().forEach(Stream::synchronize);
    }

    /// Executes the program instruction by instruction, but for the update, and looks at all that they
    /// write.
    ///
    /// Each call is waited for before the next is issued. Ranks that wait for one another in collectives and
    /// transfers do not do so for ever: every rank's order of issue is a part of one order of all ranks' work, so
    /// the first call in that order which is not done yet is the next one of all ranks that take part in it.
    ///
    /// @return what was not finite first, or null
    Inspection.@Nullable Found findNonFinite(int program, Inspection inspection) {
        drain();
        Prepared prepared = programs[program];
        Inspection.@Nullable Found found = null;
        for (Instruction instruction : prepared.instructions) {
            // Weights that are collected before use must be, and those collected after an update are the same.
            if (instruction.kind() == Instruction.Kind.UPDATE) {
                continue;
            }
            // Collectives need all ranks, so the walk goes on after a find.
            Stream stream = stream(streams, instruction.lane());
            for (Call call : instruction.calls()) {
                prepared.dispatch.call(stream, call);
                stream.synchronize();
                if (found == null) {
                    found = inspection.look(instruction, call, memory);
                }
            }
        }
        return found;
    }

    /// Ends the lanes, when they are done; what others may still read of this rank's memory stays.
    void stop() {
        streams.values().forEach(Stream::close);
        streams.clear();
    }

    @Override
    public void close() {
        stop();
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
