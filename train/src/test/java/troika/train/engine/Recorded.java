package troika.train.engine;

import java.util.ArrayList;
import java.util.List;
import troika.comm.Communicator;
import troika.comm.InProcessGroup;
import troika.plan.StepProgram;
import troika.plan.TrainingPlan;
import troika.tensor.Device;
import troika.train.TinyRun;

/// An Engine whose ranks' devices and communicators are wrapped by [Recording]s.
final class Recorded implements AutoCloseable {
    private final List<Device> devices;
    private final List<Communicator> communicators;
    private final List<Recording> recordings = new ArrayList<>();
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
        communicators = InProcessGroup.create(devices.size());
        for (int rank = 0; rank < devices.size(); rank++) {
            recordings.add(new Recording(devices.get(rank), communicators.get(rank), real));
        }
        engine = new Engine(
                programs,
                recordings.stream().map(Recording::device).toList(),
                recordings.stream().map(Recording::communicator).toList(),
                false);
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

    List<Communicator> communicators() {
        return communicators;
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
