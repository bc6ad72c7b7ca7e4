package troika.train.engine;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.Executor;
import java.util.function.Predicate;
import java.util.function.ToDoubleFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import troika.comm.CollectiveTrial;
import troika.comm.Communicator;
import troika.comm.Communicators;
import troika.graph.Op;
import troika.plan.Call;
import troika.plan.CostModel;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.plan.StepProgram;
import troika.plan.TensorSpec;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Measures devices for the [CostModel] of a program: on each its products, its attention and the activations of its
/// MLPs, in the shapes and proportions that the program has them, for long enough that a card's power limit binds as it
/// does in a step; and what a rank receives in collectives of them all. All ranks measure at the same time, so that
/// those which share a device have their part of it.
///
/// Taken as given is that an instruction takes 5 µs beside its calls, and that each rank has a link of its own.
public final class Calibration {
    private static final long NANOS = 300_000_000;
    private static final double SLOW_SECONDS = 2;
    private static final int AT_ONCE = 2;
    /// Of calls alike in a round; of others as many in proportion, and one at least.
    private static final int MOST_OF_A_FORM = 24;

    private static final double LAUNCH_MICROSECONDS = 5;
    private static final int PIECE = 16 << 20;

    private final RankProgram program;
    private final Device device;
    private final List<Call> calls;

    private Calibration(RankProgram program, Device device) {
        this.program = program;
        this.device = device;
        calls = program.instructions().stream()
                .flatMap(instruction -> instruction.calls().stream())
                .toList();
    }

    /// Measures; takes a few seconds, on a slow CPU as long as a microbatch's products, and as much memory as the
    /// tensors of a layer's and the head's products.
    ///
    /// @param devices by rank, with nothing to do
    public static CostModel measure(StepProgram program, List<Device> devices) {
        double link = Double.MAX_VALUE;
        double transfer = 0;
        if (devices.size() > 1) {
            List<Communicator> group = Communicators.create(devices);
            try {
                CollectiveTrial.Rates rates = CollectiveTrial.run(devices, group);
                link = rates.bytesPerSecond();
                transfer = rates.smallSeconds();
            } finally {
                group.forEach(Communicator::close);
            }
        }
        double rate = link;
        Executor threads = task -> Thread.ofPlatform().name("calibration").start(task);
        List<CompletableFuture<CostModel.Card>> cards = IntStream.range(0, devices.size())
                .mapToObj(rank -> CompletableFuture.supplyAsync(
                        () -> new Calibration(program.ranks().get(rank), devices.get(rank)).card(rate), threads))
                .toList();
        try {
            CompletableFuture.allOf(cards.toArray(CompletableFuture[]::new)).join();
        } catch (CompletionException e) {
            if (e.getCause() instanceof RuntimeException cause) {
                throw cause;
            }
            throw e;
        }
        return new CostModel(
                cards.stream().map(CompletableFuture::join).toList(),
                List.of(),
                Double.MAX_VALUE,
                CostModel.Transport.PEER,
                transfer * 1e6);
    }

    private CostModel.Card card(double link) {
        double products = rate(
                op -> op instanceof Op.Linear
                        || op instanceof Op.LinearBackwardInput
                        || op instanceof Op.LinearBackwardWeight,
                this::flops);
        double attention = rate(op -> op instanceof Op.Attention || op instanceof Op.AttentionBackward, this::flops);
        double memory = rate(
                op -> op instanceof Op.SwiGlu || op instanceof Op.SwiGluBackward,
                call -> CostModel.bytes(program, call));
        return new CostModel.Card(products, attention, memory, LAUNCH_MICROSECONDS, link, link, -1);
    }

    private double flops(Call call) {
        return CostModel.flops(program, call);
    }

    /// Work a second of some kinds of calls; what a program has none of is free.
    private double rate(Predicate<Op> kinds, ToDoubleFunction<Call> work) {
        Map<List<Object>, List<Call>> alike = calls.stream()
                .filter(call -> kinds.test(call.op()))
                .collect(Collectors.groupingBy(this::form, LinkedHashMap::new, Collectors.toList()));
        int most = alike.values().stream().mapToInt(List::size).max().orElse(1);
        float scale = Math.min(1, (float) MOST_OF_A_FORM / most);
        List<Call> round = alike.values().stream()
                .flatMap(some ->
                        Collections.nCopies(Math.max(1, Math.round(some.size() * scale)), some.getFirst()).stream())
                .toList();
        return round.isEmpty()
                ? Double.MAX_VALUE
                : round.stream().mapToDouble(work).sum() / seconds(round);
    }

    /// What calls have in common that take as long.
    private List<Object> form(Call call) {
        List<Object> form = new ArrayList<>();
        form.add(call.op());
        for (List<Integer> side : List.of(call.inputs(), call.outputs())) {
            for (int id : side) {
                TensorSpec tensor = id < 0 ? null : program.tensors().get(id);
                form.add(tensor == null ? "" : tensor.dtype());
                form.add(tensor == null ? "" : tensor.shape());
            }
        }
        return form;
    }

    /// Seconds of some calls, one behind the other.
    private double seconds(List<Call> some) {
        List<Memory> taken = new ArrayList<>();
        try {
            Tensor[] tensors = new Tensor[program.tensors().size()];
            for (int id : ids(some)) {
                tensors[id] = take(program.tensors().get(id), taken);
            }
            TensorSpec scratch = program.tensors().stream()
                    .filter(tensor -> tensor.name().equals(RankExecutor.workspaceName(Lane.COMPUTE)))
                    .findFirst()
                    .orElse(null);
            Tensor workspace = scratch == null ? null : take(scratch, taken);
            return seconds(some, tensors, workspace);
        } finally {
            taken.forEach(device::free);
        }
    }

    private double seconds(List<Call> some, Tensor[] tensors, @Nullable Tensor workspace) {
        Dispatch dispatch = new Dispatch(device.kernels(), new Groups.Ends(program.rank(), Map.of(), null), tensors);
        try (Stream stream = device.stream("calibration", workspace)) {
            Map<Call, Stream.Graph> captured = new HashMap<>();
            for (Call call : some) {
                captured.computeIfAbsent(call, _ -> {
                    stream.beginCapture();
                    dispatch.call(stream, call);
                    return stream.endCapture();
                });
            }
            fill(some, tensors);
            List<Stream.Graph> graphs =
                    some.stream().map(captured::get).filter(Objects::nonNull).toList();
            // The JVM compiles what a CPU runs, and a card comes to its power limit; in a slow round, most of it.
            double first = seconds(stream, graphs, 1, 0);
            if (first > SLOW_SECONDS) {
                return first;
            }
            seconds(stream, graphs, AT_ONCE, NANOS);
            return seconds(stream, graphs, AT_ONCE, NANOS);
        }
    }

    /// Seconds of a round.
    ///
    /// @param atOnce rounds that are issued before they are waited for: the card has one while the host issues
    /// the next
    /// @param least nanoseconds that rounds are repeated for
    private static double seconds(Stream stream, List<Stream.Graph> graphs, int atOnce, long least) {
        int rounds = 0;
        long began = System.nanoTime();
        long passed;
        do {
            for (int i = 0; i < atOnce; i++) {
                graphs.forEach(stream::launch);
            }
            stream.synchronize();
            rounds += atOnce;
            passed = System.nanoTime() - began;
        } while (passed < least);
        return passed * 1e-9 / rounds;
    }

    private static TreeSet<Integer> ids(List<Call> some) {
        TreeSet<Integer> ids = new TreeSet<>();
        for (Call call : some) {
            ids.addAll(call.inputs());
            ids.addAll(call.outputs());
        }
        ids.remove(-1);
        return ids;
    }

    private Tensor take(TensorSpec spec, List<Memory> taken) {
        Memory memory = device.allocate("calibration", spec.bytes());
        taken.add(memory);
        return memory.tensor(0, spec.dtype(), spec.shape());
    }

    /// Numbers of about 0.05 in floating-point tensors, since zeros take less power; counts in those of integers, which
    /// are tokens or positions in one document a sequence.
    private void fill(List<Call> some, Tensor[] tensors) {
        int sequence = some.stream()
                .map(Call::op)
                .mapToInt(op -> op instanceof Op.Attention attention
                        ? attention.shape().sequence()
                        : op instanceof Op.AttentionBackward backward
                                ? backward.shape().sequence()
                                : 1)
                .max()
                .orElse(1);
        SplittableRandom random = new SplittableRandom(1);
        MemorySegment numbers = MemorySegment.ofArray(new byte[PIECE]);
        for (long i = 0; i < PIECE; i += 2) {
            // The upper half of an fp32 number, which is a bf16 one.
            int bits = Float.floatToRawIntBits((float) random.nextGaussian() * 0.05f);
            numbers.set(ValueLayout.JAVA_SHORT_UNALIGNED, i, (short) (bits >>> 16));
        }
        for (int id : ids(some)) {
            Tensor tensor = tensors[id];
            if (tensor.dtype() == DType.I32) {
                int[] counts = IntStream.range(0, (int) tensor.elements())
                        .map(i -> i % sequence)
                        .toArray();
                device.write(tensor, MemorySegment.ofArray(counts));
            } else {
                int size = tensor.dtype().bytes();
                for (long at = 0; at < tensor.bytes(); at += PIECE) {
                    long bytes = Math.min(PIECE, tensor.bytes() - at);
                    Tensor piece = tensor.memory().tensor(at, tensor.dtype(), Shape.of(bytes / size));
                    device.write(piece, numbers.asSlice(0, bytes));
                }
            }
        }
    }
}
