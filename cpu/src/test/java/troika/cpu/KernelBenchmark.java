package troika.cpu;

import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OperationsPerInvocation;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.options.OptionsBuilder;
import troika.tensor.DType;
import troika.tensor.Shape;
import troika.tensor.Stream;

/// Times each call of [KernelCases] as a step makes it, captured and launched on a stream, and says how near it comes
/// to what the machine allows: `bench/kernels.sh`.
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Warmup(iterations = 3, time = 500, timeUnit = TimeUnit.MILLISECONDS)
@Measurement(iterations = 5, time = 500, timeUnit = TimeUnit.MILLISECONDS)
@Fork(1)
public class KernelBenchmark {
    private static final int LAUNCHES = 16;
    private static final long SPIN_NANOS = 50_000;
    /// Below this a call is all launch, and a share would mean nothing.
    private static final long LEAST_BYTES = 4096;

    /// A name of [KernelCases].
    @Param("linear qkv")
    public String kernel = "";

    /// The threads of the stream.
    @Param("1")
    public int threads;

    private CpuDevice device = open(1);
    private Stream stream = device.stream("unused", null);
    private Stream.Graph graph = new Stream.Graph() {};

    @Setup
    public void prepare() {
        stream.close();
        device = open(threads);
        long bytes = device.workspaceBytes();
        stream = device.stream(
                "benchmark", device.allocate("workspace", bytes).tensor(0, DType.I32, Shape.of(bytes / 4)));
        KernelCases.Case one = new KernelCases(device).of(kernel);
        stream.beginCapture();
        one.call().accept(stream);
        graph = stream.endCapture();
    }

    @TearDown
    public void close() {
        stream.close();
    }

    /// Launches follow one another on the stream, as a step's do.
    @Benchmark
    @OperationsPerInvocation(LAUNCHES)
    public void launch() {
        for (int i = 0; i < LAUNCHES; i++) {
            stream.launch(graph);
        }
        stream.synchronize();
    }

    /// Runs all cases whose names match the regular expression given, on one thread and on all.
    public static void main(String[] arguments) throws RunnerException {
        Pattern wanted = Pattern.compile(arguments.length > 0 ? arguments[0] : "");
        int cores = Runtime.getRuntime().availableProcessors();
        KernelCases cases = new KernelCases(open(1));
        List<String> names = cases.names().stream().filter(wanted.asPredicate()).toList();
        Collection<RunResult> results = new Runner(new OptionsBuilder()
                        .include(KernelBenchmark.class.getName())
                        .param("kernel", names.toArray(String[]::new))
                        .param(
                                "threads",
                                IntStream.of(1, cores)
                                        .distinct()
                                        .mapToObj(Integer::toString)
                                        .toArray(String[]::new))
                        .build())
                .run();
        Map<String, RunResult> byName = new HashMap<>();
        for (RunResult result : results) {
            byName.put(
                    result.getParams().getParam("kernel") + " "
                            + result.getParams().getParam("threads"),
                    result);
        }
        System.out.println();
        System.out.println(open(cores).name());
        for (int threads : IntStream.of(1, cores).distinct().toArray()) {
            Machine machine = new Machine(threads);
            double peak = machine.flops();
            System.out.printf(
                    Locale.ROOT,
                    "%nThreads: %d; large bf16 products of oneDNN: %.0f GFLOP/s%n%n"
                            + "%-30s %10s %8s %8s %9s %10s %s%n",
                    threads,
                    peak / 1e9,
                    "kernel",
                    "µs",
                    "± µs",
                    "GB/s",
                    "GFLOP/s",
                    "triad GB/s",
                    "share of what is possible");
            for (String name : names) {
                RunResult result = byName.get(name + " " + threads);
                if (result != null) {
                    System.out.println(line(name, cases.of(name), result, machine, peak));
                }
            }
        }
    }

    private static String line(String name, KernelCases.Case work, RunResult result, Machine machine, double peak) {
        double micros = result.getPrimaryResult().getScore();
        double error = result.getPrimaryResult().getScoreError();
        double seconds = micros / 1e6;
        String measured = String.format(
                Locale.ROOT,
                "%-30s %10.1f %8.1f %8.1f %9.1f",
                name,
                micros,
                error,
                work.bytes() / seconds / 1e9,
                work.flops() / seconds / 1e9);
        if (work.workingSet() < LEAST_BYTES) {
            return measured;
        }
        double bandwidth = machine.bandwidth(work.workingSet());
        double memorySeconds = work.bytes() / bandwidth;
        double productSeconds = work.flops() / peak;
        return measured
                + String.format(
                        Locale.ROOT,
                        " %10.1f %4.0f %% of %s",
                        bandwidth / 1e9,
                        100 * Math.max(memorySeconds, productSeconds) / seconds,
                        memorySeconds > productSeconds ? "bandwidth" : "FLOPs");
    }

    private static CpuDevice open(int threads) {
        return new CpuDevice(0, threads, SPIN_NANOS);
    }
}
