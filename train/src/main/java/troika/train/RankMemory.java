package troika.train;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import troika.plan.RankProgram;
import troika.plan.StepProgram;
import troika.plan.TensorSpec;
import troika.tensor.DType;
import troika.train.engine.Engine;

/// The named tensors in the ranks' arenas, between executions. Ranks need not have the same ones.
interface RankMemory {
    int worldSize();

    boolean has(int rank, String tensor);

    long elements(int rank, String tensor);

    DType dtype(int rank, String tensor);

    /// Writes elements of a tensor, from its `first` on.
    void write(int rank, String tensor, long first, MemorySegment from);

    /// Reads elements of a tensor, from its `first` on.
    void read(int rank, String tensor, long first, MemorySegment to);

    /// A host tensor as memory that may be read and written.
    MemorySegment host(int rank, String tensor);

    /// An Engine's memory, as one of its programs names it.
    static RankMemory of(Engine engine, StepProgram program) {
        List<Map<String, TensorSpec>> named = new ArrayList<>();
        for (RankProgram rank : program.ranks()) {
            Map<String, TensorSpec> tensors = new HashMap<>();
            rank.tensors().forEach(tensor -> tensors.putIfAbsent(tensor.name(), tensor));
            named.add(tensors);
        }
        int index = engine.program(program.name());
        return new RankMemory() {
            @Override
            public int worldSize() {
                return named.size();
            }

            @Override
            public boolean has(int rank, String tensor) {
                return named.get(rank).containsKey(tensor);
            }

            private TensorSpec spec(int rank, String tensor) {
                TensorSpec spec = named.get(rank).get(tensor);
                if (spec == null) {
                    throw new IllegalArgumentException("rank " + rank + " has no tensor " + tensor);
                }
                return spec;
            }

            @Override
            public long elements(int rank, String tensor) {
                return spec(rank, tensor).shape().elements();
            }

            @Override
            public DType dtype(int rank, String tensor) {
                return spec(rank, tensor).dtype();
            }

            @Override
            public void write(int rank, String tensor, long first, MemorySegment from) {
                engine.write(rank, tensor, first, from);
            }

            @Override
            public void read(int rank, String tensor, long first, MemorySegment to) {
                engine.read(rank, tensor, first, to);
            }

            @Override
            public MemorySegment host(int rank, String tensor) {
                return engine.host(rank, index, tensor);
            }
        };
    }
}
