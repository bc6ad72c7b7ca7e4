package troika.train.engine;

import troika.plan.RankProgram;
import troika.plan.TensorSpec;
import troika.tensor.Device;
import troika.tensor.Memory;
import troika.tensor.Tensor;

/// A rank's two arenas: all the memory it uses, taken once.
final class Arenas implements AutoCloseable {
    private final Device device;
    private final Memory deviceArena;
    private final Memory hostArena;

    Arenas(int rank, Device device, long deviceBytes, long hostBytes) {
        this.device = device;
        this.deviceArena = device.allocate("device arena of rank " + rank, deviceBytes);
        try {
            this.hostArena = device.allocateHost("host arena of rank " + rank, hostBytes);
        } catch (RuntimeException | Error e) {
            device.free(deviceArena);
            throw e;
        }
    }

    Memory deviceArena() {
        return deviceArena;
    }

    Tensor tensor(TensorSpec spec) {
        return (spec.host() ? hostArena : deviceArena).tensor(spec.offset(), spec.dtype(), spec.shape());
    }

    /// The tensors of a program, by id.
    Tensor[] tensors(RankProgram program) {
        return program.tensors().stream().map(this::tensor).toArray(Tensor[]::new);
    }

    @Override
    public void close() {
        device.free(deviceArena);
        device.free(hostArena);
    }
}
