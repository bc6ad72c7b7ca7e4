package troika.train.engine;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.EnumMap;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;
import troika.plan.Instruction;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.plan.TensorSpec;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Executes steps of a rank's program in an order drawn at random from all that its declared dependencies
/// allow: lanes first in, first out, two steps in flight. Instructions run one at a time, but collectives and
/// transfers meanwhile, for peers may first do something else that needs this rank. What is dead is poisoned at
/// once.
final class Shuffled {
    private final RankProgram program;
    private final Device device;
    private final Arenas memory;
    private final Dispatch dispatch;
    private final Map<Lane, Stream> streams = new EnumMap<>(Lane.class);
    private final Map<Lane, List<Instruction>> lanes = new EnumMap<>(Lane.class);
    private final Cells cells;
    private final Random random;
    private final int delayed;
    /// By lane, how many of its instructions have run, over all steps.
    private final Map<Lane, Integer> ran = new EnumMap<>(Lane.class);
    private final List<BitSet> done = new ArrayList<>();
    /// What other threads are about, and what they have ended.
    private final Map<Lane, Started> running = new EnumMap<>(Lane.class);
    private final BlockingQueue<Ended> ended = new LinkedBlockingQueue<>();
    private final List<float[]> reports = new ArrayList<>();
    private int outOfOrder;

    private record Started(Instruction instruction, int step) {}

    private record Ended(Lane lane, @Nullable Throwable failure) {}

    /// @param delayed an instruction that waits until nothing else can run; -1 for none
    Shuffled(RankProgram program, Device device, Groups.Ends groups, long seed, int delayed) {
        this.program = program;
        this.device = device;
        this.delayed = delayed;
        memory = new Arenas(program.rank(), device, program.deviceBytes(), program.hostBytes());
        for (Lane lane : Lane.values()) {
            Tensor workspace = RankExecutor.workspace(List.of(program), lane, memory);
            streams.put(lane, device.stream("shuffled " + lane, workspace));
            List<Instruction> own = program.instructions().stream()
                    .filter(instruction -> instruction.lane() == lane)
                    .toList();
            if (!own.isEmpty()) {
                lanes.put(lane, own);
            }
        }
        dispatch = new Dispatch(device.kernels(), groups, memory.tensors(program));
        cells = new Cells(program);
        random = new Random(seed);
    }

    /// Runs steps from a state of the device arena.
    /// @param inputs the host arena of each step
    void run(byte[] state, List<byte[]> inputs) {
        device.write(bytes(memory.deviceArena(), 0, state.length), MemorySegment.ofArray(state));
        int started = 0;
        Map<Instruction, Integer> choices = new HashMap<>();
        while (true) {
            finishEnded(ended.poll());
            choices.clear();
            lanes.forEach((lane, own) -> {
                int count = ran.getOrDefault(lane, 0);
                if (!running.containsKey(lane)) {
                    choices.put(own.get(count % own.size()), count / own.size());
                }
            });
            int steps = started;
            choices.entrySet()
                    .removeIf(choice -> choice.getValue() >= steps || !ready(choice.getKey(), choice.getValue()));
            boolean canStart = started < inputs.size()
                    && (started == 0 || uploaded(started - 1))
                    && (started < 2
                            || done.get(started - 2).cardinality()
                                    == program.instructions().size());
            boolean onlyDelayed = choices.keySet().stream().allMatch(i -> i.id() == delayed);
            if (onlyDelayed && !canStart && !running.isEmpty() && awaitEnded(choices.isEmpty())) {
                continue;
            }
            if (choices.isEmpty() && !canStart) {
                break;
            }
            if (choices.size() > 1) {
                choices.keySet().removeIf(i -> i.id() == delayed);
            }
            if (canStart && (onlyDelayed || random.nextInt(3) == 0)) {
                byte[] input = inputs.get(started++);
                Memory host = memory.tensor(hostTensor()).memory();
                device.write(bytes(host, 0, input.length), MemorySegment.ofArray(input));
                done.add(new BitSet());
            } else {
                List<Instruction> list = new ArrayList<>(choices.keySet());
                list.sort((a, b) -> Integer.compare(a.id(), b.id()));
                Instruction next = list.get(random.nextInt(list.size()));
                execute(next, choices.getOrDefault(next, 0));
            }
        }
        for (BitSet step : done) {
            if (step.cardinality() != program.instructions().size()) {
                throw new IllegalStateException("instructions of rank " + program.rank() + " are left over");
            }
        }
    }

    private TensorSpec hostTensor() {
        return program.tensors().stream().filter(TensorSpec::host).findFirst().orElseThrow();
    }

    /// The host may write a step's inputs where those of the step before have been read.
    private boolean uploaded(int step) {
        return program.instructions().stream()
                .allMatch(i ->
                        i.kind() != Instruction.Kind.INPUT || done.get(step).get(i.id()));
    }

    private boolean ready(Instruction instruction, int step) {
        return instruction.after().stream().allMatch(done.get(step)::get)
                && (step == 0 || instruction.afterPrevious().stream().allMatch(done.get(step - 1)::get));
    }

    private void execute(Instruction instruction, int step) {
        if (done.get(step).nextClearBit(0) != instruction.id() || (step > 0 && unfinished(step - 1))) {
            outOfOrder++;
        }
        Lane lane = instruction.lane();
        Stream stream = Objects.requireNonNull(streams.get(lane));
        Runnable calls = () -> {
            instruction.calls().forEach(call -> dispatch.call(stream, call));
            stream.synchronize();
        };
        if (instruction.calls().stream().noneMatch(call -> call.op().collective())) {
            calls.run();
            finish(instruction, step);
            return;
        }
        running.put(lane, new Started(instruction, step));
        Thread.ofPlatform().daemon().start(() -> {
            try {
                calls.run();
                ended.add(new Ended(lane, null));
            } catch (Throwable e) {
                ended.add(new Ended(lane, e));
            }
        });
    }

    /// Waits for what other threads are about.
    /// @param only whether there is nothing else to do; else not for long: it may be a peer that waits for the
    /// delayed instruction
    private boolean awaitEnded(boolean only) {
        try {
            @Nullable Ended end = only ? ended.take() : ended.poll(200, TimeUnit.MILLISECONDS);
            finishEnded(end);
            return end != null;
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    private void finishEnded(@Nullable Ended first) {
        for (@Nullable Ended end = first; end != null; end = ended.poll()) {
            if (end.failure() != null) {
                throw new IllegalStateException(end.failure());
            }
            Started started = Objects.requireNonNull(running.remove(end.lane()));
            finish(started.instruction(), started.step());
        }
    }

    private void finish(Instruction instruction, int step) {
        BitSet now = done.get(step);
        now.set(instruction.id());
        ran.merge(instruction.lane(), 1, Integer::sum);
        if (instruction.kind() == Instruction.Kind.REPORT) {
            float[] report = new float[4];
            device.read(memory.tensor(program.tensor("host report")), MemorySegment.ofArray(report));
            reports.add(report);
        }
        for (Cells.Content content : cells.of(instruction.id())) {
            if (content.users().stream().allMatch(now::get)) {
                poison(content);
            }
        }
    }

    private boolean unfinished(int step) {
        return done.get(step).cardinality() < program.instructions().size();
    }

    private void poison(Cells.Content content) {
        byte[] poison = new byte[Math.toIntExact(content.end() - content.start())];
        // NaN in every floating-point type. Integers are indices: any wrong one that exists will do.
        Arrays.fill(poison, (byte) (content.dtype() == DType.I32 ? 0 : 0xff));
        device.write(bytes(memory.deviceArena(), content.start(), poison.length), MemorySegment.ofArray(poison));
    }

    private static Tensor bytes(Memory memory, long offset, long length) {
        // All sizes here are whole elements of two bytes.
        return memory.tensor(offset, DType.BF16, new Shape(length / 2));
    }

    /// Of each step: sum of squares, loss, norm, clip factor.
    List<float[]> reports() {
        return reports;
    }

    /// How many instructions ran before others that are issued before them.
    int outOfOrder() {
        return outOfOrder;
    }

    /// The content of all tensors of these roles, by name.
    Map<String, byte[]> contents() {
        Map<String, byte[]> contents = new HashMap<>();
        for (TensorSpec tensor : program.tensors()) {
            if (lasting(tensor)) {
                byte[] content = new byte[Math.toIntExact(tensor.bytes())];
                device.read(memory.tensor(tensor), MemorySegment.ofArray(content));
                contents.put(tensor.name(), content);
            }
        }
        return contents;
    }

    /// Whether a tensor is what training is for: weights and optimizer states.
    static boolean lasting(TensorSpec tensor) {
        return switch (tensor.role()) {
            // Between the parameters of a flat group lies padding, which nobody reads.
            case WEIGHTS -> !tensor.name().startsWith("weights:");
            case MASTER_WEIGHTS, MOMENTS -> true;
            default -> false;
        };
    }

    void close() {
        streams.values().forEach(Stream::close);
        memory.close();
    }
}
