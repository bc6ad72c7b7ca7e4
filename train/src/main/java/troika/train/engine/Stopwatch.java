package troika.train.engine;

import java.util.ArrayList;
import java.util.List;
import troika.plan.Instruction;
import troika.plan.Timeline;
import troika.tensor.Device;
import troika.tensor.Stream;
import troika.tensor.TimedEvent;

/// Times a rank's instructions in some executions of a program, by events of its streams. Used by the rank's
/// thread.
final class Stopwatch {
    private final List<Instruction> instructions;
    private final TimedEvent origin;
    private final long originNanos;
    /// By execution and instruction.
    private final TimedEvent[][] begins;

    private final TimedEvent[][] ends;
    private int execution = -1;
    private long issuing;

    /// @param idle a stream of the device, which has nothing to do
    Stopwatch(List<Instruction> instructions, int executions, Device device, Stream idle) {
        this.instructions = instructions;
        begins = events(instructions.size(), executions, device);
        ends = events(instructions.size(), executions, device);
        origin = device.timedEvent();
        idle.record(origin);
        origin.synchronize();
        originNanos = System.nanoTime();
    }

    private static TimedEvent[][] events(int instructions, int executions, Device device) {
        TimedEvent[][] events = new TimedEvent[executions][instructions];
        for (TimedEvent[] execution : events) {
            for (int i = 0; i < instructions; i++) {
                execution[i] = device.timedEvent();
            }
        }
        return events;
    }

    /// Whether another execution is to be timed; it is then the one that is.
    boolean next() {
        execution++;
        return execution < begins.length;
    }

    void begin(Stream stream, Instruction instruction) {
        stream.record(begins[execution][instruction.id()]);
    }

    void end(Stream stream, Instruction instruction) {
        stream.record(ends[execution][instruction.id()]);
    }

    /// Adds to the time that the rank's thread takes to issue what is timed.
    void issued(long nanos) {
        issuing += nanos;
    }

    /// Of an execution, on average.
    double issueSeconds() {
        return issuing * 1e-9 / begins.length;
    }

    /// The host's clock when the spans' began.
    long originNanos() {
        return originNanos;
    }

    /// What was timed, in the order of issue; all is done.
    ///
    /// @param startNanos of the host's clock, from which the spans' times are counted
    List<Timeline.Span> spans(long startNanos) {
        double offset = (originNanos - startNanos) * 1e-9;
        List<Timeline.Span> spans = new ArrayList<>();
        for (int step = 0; step < begins.length; step++) {
            for (Instruction instruction : instructions) {
                int id = instruction.id();
                spans.add(new Timeline.Span(
                        step,
                        id,
                        instruction.lane(),
                        offset + begins[step][id].secondsSince(origin),
                        offset + ends[step][id].secondsSince(origin)));
            }
        }
        return spans;
    }
}
