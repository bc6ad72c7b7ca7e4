package troika.train.engine;

import java.util.ArrayList;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Objects;
import troika.comm.Communicator;
import troika.comm.Communicators;
import troika.plan.StepProgram;
import troika.plan.TrainingPlan;
import troika.tensor.Device;
import troika.train.TinyRun;

/// An Engine whose ranks' devices and communicators, of all groups, are wrapped by [Recording]s.
final class Recorded implements AutoCloseable {
    private final List<Device> devices;
    private final List<Recording> recordings = new ArrayList<>();
    private final IdentityHashMap<Device, Recording> byDevice = new IdentityHashMap<>();
    private final TrainingPlan plan;
    private final Engine engine;

    /// Compiles a job and makes an Engine for it.
    /// @param real whether kernels and collectives run
    static Recorded of(TinyRun.Job job, boolean real) {
        List<Device> devices = TinyRun.devices(job.ranks());
        TrainingPlan plan = job.plan();
        return new Recorded(devices, plan, List.of(plan.train(), plan.evaluate()), real);
    }

    /// @param plan from which `programs` were made
    Recorded(List<Device> devices, TrainingPlan plan, List<StepProgram> programs, boolean real) {
        this.devices = devices;
        this.plan = plan;
        for (Device device : devices) {
            Recording recording = new Recording(device, real);
            recordings.add(recording);
            byDevice.put(recording.device(), recording);
        }
        engine = new Engine(programs, recordings.stream().map(Recording::device).toList(), this::group, false);
    }

    /// The communicators of a group of wrapped devices, wrapped.
    private List<Communicator> group(List<Device> members) {
        List<Recording> own = members.stream()
                .map(device -> Objects.requireNonNull(byDevice.get(device)))
                .toList();
        List<Integer> ranks = own.stream().map(recordings::indexOf).toList();
        List<Communicator> group =
                Communicators.create(own.stream().map(Recording::target).toList());
        List<Communicator> wrapped = new ArrayList<>();
        for (int i = 0; i < group.size(); i++) {
            wrapped.add(own.get(i).communicator(group.get(i), ranks));
        }
        return wrapped;
    }

    Engine engine() {
        return engine;
    }

    TrainingPlan plan() {
        return plan;
    }

    List<Recording> recordings() {
        return recordings;
    }

    /// Executes a program and returns, by rank, what was seen meanwhile.
    List<List<Recording.Seen>> execute(int program) {
        engine.drain();
        recordings.forEach(Recording::clear);
        engine.execute(program);
        engine.drain();
        return recordings.stream().map(Recording::seen).toList();
    }

    @Override
    public void close() {
        engine.close();
        devices.forEach(Device::close);
    }
}
