package troika.train.engine;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.ServiceLoader;
import java.util.SplittableRandom;
import troika.comm.Communicators;
import troika.graph.Op;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.model.Presets;
import troika.plan.Call;
import troika.plan.Compiler;
import troika.plan.Instruction;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PlanOptions;
import troika.plan.RankProgram;
import troika.plan.StepProgram;
import troika.plan.TensorSpec;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.tensor.DeviceProvider;
import troika.tensor.Shape;
import troika.tensor.Stream;
import troika.tensor.Tensor;

/// Where the time of a training step goes on one device: every call of the step's program, captured alone and launched
/// several times, summed by op and shape, with its share of bandwidth and its rate of FLOPs. Run by bench/gpu/run.
///
/// Arguments: model, sequence length, batch, kind of device, deterministic (on or off), moments (F32 or BF16),
/// recompute (none, elementwise or layer), packed (true or false).
public final class StepBudget {
    private static final int LAUNCHES = 4;
    private static final int PIECE = 16 << 20;

    private StepBudget() {}

    private record Line(String call, int count, double milliseconds, double bytes, double flops) {
        Line plus(double time, double moreBytes, double moreFlops) {
            return new Line(call, count + 1, milliseconds + time, bytes + moreBytes, flops + moreFlops);
        }
    }

    public static void main(String[] arguments) {
        ModelConfig config = Presets.find(arguments[0]).orElseThrow();
        int sequence = Integer.parseInt(arguments[1]);
        DeviceProvider provider = ServiceLoader.load(DeviceProvider.class).stream()
                .map(ServiceLoader.Provider::get)
                .filter(one -> one.kind().equals(arguments[3]))
                .findFirst()
                .orElseThrow();
        boolean deterministic = arguments[4].equals("on");
        DeviceNeeds needs = provider.needs("", deterministic);
        Device device = provider.open("", deterministic).getFirst();
        PlanOptions options = new PlanOptions(
                DType.BF16,
                sequence,
                Integer.parseInt(arguments[2]),
                1,
                Parallelism.zero(0),
                arguments[6].equals("layer"),
                arguments[6].equals("elementwise"),
                arguments[7].equals("true"),
                DType.valueOf(arguments[5]),
                0.9f,
                0.95f,
                1e-8f,
                0.1f,
                1f,
                needs.workspaceBytes(),
                needs.logitsAtATime());
        StepProgram whole = new Compiler(_ -> DeepSeekLlm.of(config, sequence), Layout.dataParallel(1), options)
                .training()
                .train();
        RankProgram program = whole.ranks().getFirst();
        Arenas memory = new Arenas(0, device, program.deviceBytes(), program.hostBytes());
        Groups groups = new Groups(List.of(whole), List.of(device), Communicators::create);
        Dispatch dispatch = new Dispatch(device.kernels(), groups.of(0, 0), memory.tensors(program));
        Stream stream = device.stream("budget", memory.tensor(program.tensor("workspace:COMPUTE")));
        List<Call> calls = new ArrayList<>();
        List<Stream.Graph> graphs = new ArrayList<>();
        for (Instruction instruction : program.instructions()) {
            for (Call call : instruction.calls()) {
                calls.add(call);
                stream.beginCapture();
                dispatch.call(stream, call);
                graphs.add(stream.endCapture());
            }
        }
        fill(device, memory, program, config.vocabSize(), sequence);
        double step = Double.MAX_VALUE;
        for (int i = 0; i < 4; i++) {
            long began = System.nanoTime();
            graphs.forEach(stream::launch);
            stream.synchronize();
            step = Math.min(step, (System.nanoTime() - began) / 1e6);
        }
        // The update does nothing where the factor is not a number, as of these numbers it is not.
        device.write(memory.tensor(program.tensor("clip")), MemorySegment.ofArray(new float[] {1, 1}));
        print(program, calls, graphs, stream, step, (double) options.batch() * sequence);
        stream.close();
        memory.close();
        groups.close();
        device.close();
    }

    private static void print(
            RankProgram program,
            List<Call> calls,
            List<Stream.Graph> graphs,
            Stream stream,
            double step,
            double tokens) {
        Map<String, Line> lines = new HashMap<>();
        for (int i = 0; i < calls.size(); i++) {
            Stream.Graph graph = graphs.get(i);
            if (calls.get(i).op() instanceof Op.ClipFactor) {
                continue;
            }
            milliseconds(stream, graph, 1);
            double one = milliseconds(stream, graph, 1);
            double time = (milliseconds(stream, graph, LAUNCHES) - one) / (LAUNCHES - 1);
            Call call = calls.get(i);
            double bytes = 0;
            for (List<Integer> side : List.of(call.inputs(), call.outputs())) {
                for (int id : side) {
                    bytes += id < 0 ? 0 : program.tensors().get(id).bytes();
                }
            }
            double flops = call.op().flops(shapes(program, call.inputs()), shapes(program, call.outputs()));
            String name = call.op().getClass().getSimpleName() + " "
                    + shapes(program, call.outputs()).getLast()
                    + (call.inputs().isEmpty()
                            ? ""
                            : " of " + shapes(program, call.inputs()).getFirst());
            lines.merge(
                    name,
                    new Line(name, 1, time, bytes, flops),
                    (a, b) -> a.plus(b.milliseconds(), b.bytes(), b.flops()));
        }
        lines.values().stream()
                .sorted((a, b) -> Double.compare(b.milliseconds(), a.milliseconds()))
                .forEach(line -> System.out.printf(
                        Locale.ROOT,
                        "%9.3f ms %4d x %-70s %7.0f GB/s %6.0f TFLOP/s%n",
                        line.milliseconds(),
                        line.count(),
                        line.call(),
                        line.bytes() / line.milliseconds() / 1e6,
                        line.flops() / line.milliseconds() / 1e9));
        double sum = lines.values().stream().mapToDouble(Line::milliseconds).sum();
        System.out.printf(
                Locale.ROOT,
                "sum %.2f ms; a step, a launch a call, %.2f ms, %.0f tokens/s%n",
                sum,
                step,
                tokens / step * 1e3);
    }

    private static List<Shape> shapes(RankProgram program, List<Integer> ids) {
        return ids.stream()
                .filter(id -> id >= 0)
                .map(id -> program.tensors().get(id).shape())
                .toList();
    }

    private static double milliseconds(Stream stream, Stream.Graph graph, int launches) {
        long began = System.nanoTime();
        for (int i = 0; i < launches; i++) {
            stream.launch(graph);
        }
        stream.synchronize();
        return (System.nanoTime() - began) / 1e6;
    }

    /// Numbers of about 0.05 in both floating-point forms; tokens, labels and positions that are valid.
    private static void fill(Device device, Arenas memory, RankProgram program, int vocabulary, int sequence) {
        SplittableRandom random = new SplittableRandom(1);
        MemorySegment numbers = MemorySegment.ofArray(new byte[PIECE]);
        for (long i = 0; i < PIECE; i += 2) {
            int bits = Float.floatToRawIntBits((float) random.nextGaussian() * 0.05f);
            numbers.set(ValueLayout.JAVA_SHORT_UNALIGNED, i, (short) (bits >>> 16));
        }
        Tensor arena = memory.deviceArena().tensor(0, DType.I32, new Shape(program.deviceBytes() / 4));
        for (long at = 0; at < arena.bytes(); at += PIECE) {
            long bytes = Math.min(PIECE, arena.bytes() - at);
            device.write(memory.deviceArena().tensor(at, DType.I32, new Shape(bytes / 4)), numbers.asSlice(0, bytes));
        }
        for (TensorSpec spec : program.tensors()) {
            if (spec.host() && spec.dtype() == DType.I32) {
                Tensor tensor = memory.tensor(spec);
                MemorySegment values = MemorySegment.ofAddress(tensor.address()).reinterpret(tensor.bytes());
                for (int i = 0; i < tensor.elements(); i++) {
                    int value = spec.name().contains("positions") ? i % sequence : random.nextInt(vocabulary);
                    values.setAtIndex(ValueLayout.JAVA_INT, i, value);
                }
            }
        }
    }
}
