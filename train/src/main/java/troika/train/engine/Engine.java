package troika.train.engine;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;
import troika.comm.Communicator;
import troika.comm.Communicators;
import troika.plan.RankProgram;
import troika.plan.StepProgram;
import troika.plan.TensorSpec;
import troika.plan.Timeline;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.DeviceException;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// Executes step programs on devices: one platform thread a rank, one stream a lane, events for
/// dependencies.
///
/// All memory is taken, and all work that can be prepared is, when the Engine is made. Between executions
/// tensors can be read and written by name. The Engine knows nothing of models or optimizers: whatever
/// programs it is given, it runs.
public final class Engine implements AutoCloseable {
    /// The system property that, set to true, has every call waited for, so that a failure of the device names
    /// the call. It makes steps slower.
    public static final String CHECK_PROPERTY = "troika.cuda.check";

    private static final long WATCH_MILLISECONDS = 500;

    private final List<StepProgram> programs;
    private final List<Device> devices;
    private final Groups groups;
    private final Rank[] ranks;
    private final Semaphore finished = new Semaphore(0);
    private final AtomicReference<@Nullable Throwable> firstFailure = new AtomicReference<>();
    private int timedProgram;
    private volatile int timedExecutions;
    private boolean closed;

    /// Makes an Engine of ranks that are threads of this JVM.
    ///
    /// @param programs that share their ranks' arenas
    /// @param devices by rank, which the Engine does not close
    public static Engine inProcess(List<StepProgram> programs, List<Device> devices) {
        return new Engine(programs, devices, Communicators::create, !Boolean.getBoolean(CHECK_PROPERTY));
    }

    /// @param groups makes the communicators of a group, by rank of the group, from its devices
    /// @param capture false: every execution dispatches every call anew, so that wrappers see them
    Engine(
            List<StepProgram> programs,
            List<Device> devices,
            Function<List<Device>, List<Communicator>> groups,
            boolean capture) {
        this.programs = List.copyOf(programs);
        this.devices = List.copyOf(devices);
        int size = programs.getFirst().ranks().size();
        if (devices.size() != size) {
            throw new IllegalArgumentException("a program of " + size + " ranks on " + devices.size() + " devices");
        }
        this.groups = new Groups(this.programs, this.devices, groups);
        ranks = new Rank[size];
        for (int i = 0; i < size; i++) {
            ranks[i] = new Rank(i, capture);
        }
        try {
            for (Rank rank : ranks) {
                rank.thread.start();
            }
            run(Job.PREPARE, 0);
        } catch (RuntimeException | Error e) {
            // Nobody else could close the ranks that are ready.
            close();
            throw e;
        }
    }

    private enum Job {
        PREPARE,
        EXECUTE,
        DRAIN,
        TIME,
        INSPECT,
        STOP,
        CLOSE
    }

    /// The program's index, by name.
    public int program(String name) {
        for (int i = 0; i < programs.size(); i++) {
            if (programs.get(i).name().equals(name)) {
                return i;
            }
        }
        throw new IllegalArgumentException("no program " + name);
    }

    /// Executes a program on all ranks and returns when its report is in host memory; updates may still be
    /// under way.
    public void execute(int program) {
        run(Job.EXECUTE, program);
    }

    /// Waits until all lanes are idle.
    public void drain() {
        run(Job.DRAIN, 0);
    }

    /// Has the next executions of a program timed. Their instructions are dispatched one by one, so that a step
    /// that is bound by launches takes longer.
    public void time(int program, int executions) {
        timedProgram = program;
        timedExecutions = executions;
        drain();
        run(Job.TIME, program);
    }

    /// What was timed.
    ///
    /// @param issueSeconds by rank: what its thread took to issue an execution, call by call
    /// @param launchSeconds by rank: what it took to issue one that was not timed, as captures where it can be; NaN
    /// where all were
    public record Timings(Timeline timeline, List<Double> issueSeconds, List<Double> launchSeconds) {
        public Timings {
            issueSeconds = List.copyOf(issueSeconds);
            launchSeconds = List.copyOf(launchSeconds);
        }
    }

    /// When the instructions ran that [#time] asked for, all of whose executions were begun; waits for their end.
    public Timings timings() {
        drain();
        List<Stopwatch> watches =
                Arrays.stream(ranks).map(rank -> rank.executor().stopwatch()).toList();
        long start = watches.stream().mapToLong(Stopwatch::originNanos).min().orElseThrow();
        return new Timings(
                Timeline.measured(
                        programs.get(timedProgram),
                        watches.stream().map(watch -> watch.spans(start)).toList()),
                watches.stream().map(Stopwatch::issueSeconds).toList(),
                Arrays.stream(ranks).map(rank -> rank.executor().issueSeconds()).toList());
    }

    /// Executes a program once more with the inputs that are still there, the update left out, and says
    /// where the first value that is not finite came from.
    public NonFinite findNonFinite(int program) {
        StepProgram step = programs.get(program);
        for (Rank rank : ranks) {
            String spoilt = new Inspection(rank.device, step.ranks().get(rank.index))
                    .spoiltWeight(rank.executor().memory(), step.blocks());
            if (spoilt != null) {
                return new NonFinite(spoilt + " on rank " + rank.index, rank.index, -1, -1);
            }
        }
        run(Job.INSPECT, program);
        Inspection.@Nullable Found first = null;
        int at = 0;
        for (Rank rank : ranks) {
            Inspection.Found found = rank.nonFinite;
            if (found != null && (first == null || Inspection.Found.CAUSES_FIRST.compare(found, first) < 0)) {
                first = found;
                at = rank.index;
            }
        }
        if (first == null) {
            return new NonFinite("no tensor when the step was repeated", 0, -1, -1);
        }
        String where = described(step, first.tensor(), first.instruction().block()) + ", first written by "
                + first.instruction() + " on rank " + at;
        return new NonFinite(where, at, first.instruction().microbatch(), first.token());
    }

    private static String described(StepProgram step, TensorSpec tensor, int block) {
        return "tensor " + tensor.name()
                + (block < 0 ? "" : " of block " + step.blocks().get(block));
    }

    /// A host tensor of a rank as memory that the host may read and write.
    public MemorySegment host(int rank, int program, String name) {
        TensorSpec spec = programs.get(program).ranks().get(rank).tensor(name);
        if (!spec.host()) {
            throw new IllegalArgumentException(name + " is no host tensor");
        }
        Tensor tensor = ranks[rank].executor().memory().tensor(spec);
        return MemorySegment.ofAddress(tensor.address()).reinterpret(tensor.bytes());
    }

    /// The elements of a tensor.
    public long elements(int rank, String name) {
        return spec(rank, name).shape().elements();
    }

    /// The dtype of a tensor.
    public DType dtype(int rank, String name) {
        return spec(rank, name).dtype();
    }

    /// Writes elements of a tensor, from its `first` on, between executions.
    public void write(int rank, String name, long first, MemorySegment from) {
        devices.get(rank).write(part(rank, name, first, from.byteSize()), from);
    }

    /// Reads elements of a tensor, from its `first` on, between executions.
    public void read(int rank, String name, long first, MemorySegment to) {
        devices.get(rank).read(part(rank, name, first, to.byteSize()), to);
    }

    /// Bytes that a rank has received from others so far.
    long bytesReceived(int rank) {
        return groups.bytesReceived(rank);
    }

    /// The bytes of a rank's device arena.
    public long arenaBytes(int rank) {
        return ranks[rank].executor().memory().deviceArena().bytes();
    }

    public int worldSize() {
        return ranks.length;
    }

    /// Stops all ranks and gives their memory back.
    @Override
    public void close() {
        if (closed) {
            return;
        }
        closed = true;
        groups.abort(new IllegalStateException("the engine is closed"));
        int stopping = 0;
        for (Rank rank : ranks) {
            if (rank.thread.isAlive()) {
                rank.submit(Job.STOP, 0);
                stopping++;
            }
        }
        // No rank's memory goes while another one's card may still read it.
        finished.acquireUninterruptibly(stopping);
        for (Rank rank : ranks) {
            rank.submit(Job.CLOSE, 0);
        }
        for (Rank rank : ranks) {
            try {
                rank.thread.join();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }
        groups.close();
    }

    private void run(Job job, int program) {
        for (Rank rank : ranks) {
            rank.submit(job, program);
        }
        boolean interrupted = false;
        boolean done = false;
        while (!done) {
            try {
                done = finished.tryAcquire(ranks.length, WATCH_MILLISECONDS, TimeUnit.MILLISECONDS);
                if (!done) {
                    watch();
                }
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        // Other ranks only have news of it.
        Throwable failure = firstFailure.get();
        if (failure instanceof RuntimeException e) {
            throw e;
        }
        if (failure != null) {
            throw new IllegalStateException(failure);
        }
    }

    /// Ends all work where a stream has failed. Its rank may not know of it yet, and never would: one lane has
    /// stopped, and the lane it waits for waits for other ranks, which wait for the one that has stopped.
    private void watch() {
        for (Rank rank : ranks) {
            RankExecutor executor = rank.executor;
            Throwable cause = executor == null ? null : executor.failure();
            if (cause != null) {
                firstFailure.compareAndSet(
                        null,
                        new IllegalStateException("rank " + rank.index + " failed: " + cause.getMessage(), cause));
                groups.abort(cause);
            }
        }
    }

    private TensorSpec spec(int rank, String name) {
        return programs.getFirst().ranks().get(rank).tensor(name);
    }

    private Tensor part(int rank, String name, long first, long bytes) {
        TensorSpec spec = spec(rank, name);
        int size = spec.dtype().bytes();
        if (first + bytes / size > spec.shape().elements() || bytes % size != 0) {
            throw new IndexOutOfBoundsException(bytes + " bytes from element " + first + " of " + name);
        }
        TensorSpec part = new TensorSpec(
                -1,
                name,
                spec.role(),
                spec.host(),
                spec.offset() + first * size,
                spec.dtype(),
                new Shape(bytes / size));
        return ranks[rank].executor().memory().tensor(part);
    }

    /// A rank's thread and what it is to do next.
    private final class Rank {
        private final int index;
        private final boolean capture;
        private final Device device;
        private final Thread thread;
        private final Semaphore submitted = new Semaphore(0);
        private volatile @Nullable RankExecutor executor;
        private volatile Job job = Job.PREPARE;
        private volatile int program;
        private boolean failed;
        private volatile Inspection.@Nullable Found nonFinite;

        Rank(int index, boolean capture) {
            this.index = index;
            this.capture = capture;
            this.device = devices.get(index);
            this.thread = Thread.ofPlatform().name("rank " + index).daemon().unstarted(this::loop);
        }

        RankExecutor executor() {
            RankExecutor present = executor;
            if (present == null) {
                throw new IllegalStateException("rank " + index + " is not ready");
            }
            return present;
        }

        void submit(Job next, int nextProgram) {
            job = next;
            program = nextProgram;
            submitted.release();
        }

        private void loop() {
            while (true) {
                submitted.acquireUninterruptibly();
                RankExecutor own = executor;
                if (job == Job.CLOSE) {
                    if (own != null) {
                        own.close();
                    }
                    return;
                }
                try {
                    if (job == Job.STOP && own != null) {
                        own.stop();
                    } else if (!failed) {
                        work();
                    }
                } catch (DeviceException e) {
                    fail(e, located(e));
                } catch (Throwable e) {
                    fail(e, e);
                } finally {
                    finished.release();
                }
            }
        }

        /// Ends this rank's work, and that of those which wait for it.
        private void fail(Throwable cause, Throwable told) {
            failed = true;
            firstFailure.compareAndSet(null, told);
            groups.abort(cause);
        }

        /// The failure, with where the rank was if work that was launched before has failed.
        private DeviceException located(DeviceException e) {
            String where = executor == null || job == Job.INSPECT ? "" : executor.where();
            return where.isEmpty()
                    ? e
                    : new DeviceException(
                            e.getMessage() + "; the kernels of rank " + index + " stopped " + where
                                    + "; to learn the call, run again with JAVA_TOOL_OPTIONS=-D" + CHECK_PROPERTY
                                    + "=true",
                            e);
        }

        private void work() {
            switch (job) {
                case PREPARE -> {
                    List<RankProgram> own = new ArrayList<>();
                    programs.forEach(step -> own.add(step.ranks().get(index)));
                    long host =
                            own.stream().mapToLong(RankProgram::hostBytes).max().orElse(0);
                    List<Groups.Ends> ends = new ArrayList<>();
                    for (int i = 0; i < programs.size(); i++) {
                        ends.add(groups.of(i, index));
                    }
                    Arenas memory = new Arenas(index, device, own.getFirst().deviceBytes(), host);
                    executor = new RankExecutor(
                            own,
                            programs.getFirst().blocks(),
                            memory,
                            device,
                            ends,
                            capture,
                            Boolean.getBoolean(CHECK_PROPERTY));
                }
                case EXECUTE -> executor().execute(program);
                case DRAIN -> executor().drain();
                case TIME -> executor().time(program, timedExecutions);
                case INSPECT ->
                    nonFinite = executor()
                            .findNonFinite(
                                    program,
                                    new Inspection(
                                            device,
                                            programs.get(program).ranks().get(index)));
                case STOP, CLOSE -> {}
            }
        }
    }
}
