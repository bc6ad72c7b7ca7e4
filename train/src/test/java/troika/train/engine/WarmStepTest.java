package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.management.ThreadMXBean;
import java.lang.management.ManagementFactory;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import troika.ffi.NativeMemory;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.train.TinyRun;

/// What a warm step takes of memory: nothing natively, next to nothing of the heap. The threads that run
/// kernels are not held to it: whether their vectors stay in registers is the compiler's choice.
class WarmStepTest {
    private static final ThreadMXBean THREADS = (ThreadMXBean) ManagementFactory.getThreadMXBean();
    private static final int WARM = 400;
    private static final int MEASURED = 100;

    static List<TinyRun.Job> jobs() {
        TinyRun.Job job = TinyRun.job().batch(4);
        return List.of(
                job.of(DType.BF16).accumulate(2),
                job.of(DType.BF16).ranks(2).zero(1),
                job.ranks(2).zero(2).accumulate(2).recomputing());
    }

    @ParameterizedTest
    @MethodSource("jobs")
    void takesNoMemory(TinyRun.Job job) {
        List<Device> devices = TinyRun.devices(job.ranks());
        TrainingPlan plan = job.plan();
        try (Engine engine = Engine.inProcess(List.of(plan.train(), plan.evaluate()), devices)) {
            TinyRun.run(job, plan, engine, 1);
            execute(engine, WARM);
            long allocations = NativeMemory.allocations();
            Map<String, Long> before = heap();
            execute(engine, MEASURED);
            Map<String, Long> after = heap();
            assertThat(NativeMemory.allocations()).isEqualTo(allocations);
            assertThat(after.keySet()).contains("rank 0");
            if (job.ranks() == 2) {
                assertThat(after.keySet()).contains("rank 1", "communication 0", "upload 1", "download 1");
            }
            after.forEach((name, bytes) -> assertThat(bytes - before.getOrDefault(name, 0L))
                    .as("bytes of thread " + name)
                    .isLessThan(4096L * MEASURED));
        }
    }

    private static void execute(Engine engine, int steps) {
        for (int i = 0; i < steps; i++) {
            engine.execute(0);
        }
        engine.drain();
    }

    /// Bytes so far, by the names of the threads that work for the engine.
    private static Map<String, Long> heap() {
        Map<String, Long> bytes = new TreeMap<>();
        for (Thread thread : Thread.getAllStackTraces().keySet()) {
            if (thread.getName().matches("(rank|communication|upload|download) [0-9]+")) {
                bytes.merge(thread.getName(), THREADS.getThreadAllocatedBytes(thread.threadId()), Long::sum);
            }
        }
        return bytes;
    }
}
