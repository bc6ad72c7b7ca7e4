package troika.cuda;

import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.charset.StandardCharsets;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import troika.cuda.CudnnGraph.Bound;
import troika.cuda.CudnnGraph.Role;

/// A compiled attention problem, of one cuDNN handle.
final class CudnnPlan implements AutoCloseable {
    private final CudnnGraph graph;
    private final long handle;
    private final long descriptor;
    private final long workspaceBytes;

    private CudnnPlan(CudnnGraph graph, long handle, long descriptor) {
        this.graph = graph;
        this.handle = handle;
        this.descriptor = descriptor;
        workspaceBytes = graph.scratchBytes() + Cudnn.getLong(descriptor, CudnnNames.PLAN_WORKSPACE_SIZE);
    }

    /// Loads the plan that the cache keeps as text, else compiles one and keeps it. Throws [CudaException]
    /// where cuDNN has no engine.
    ///
    /// @param identity of the device, for the cache's key
    static CudnnPlan of(CudnnSpec spec, long handle, DiskCache cache, String identity) {
        long version = Cudnn.version();
        CudnnGraph graph = new CudnnGraph(spec, version);
        try {
            String key = "plan of cuDNN " + version + " for " + identity + ": " + spec;
            byte[] kept = cache.get(key);
            if (kept != null) {
                try {
                    return new CudnnPlan(graph, handle, load(graph, handle, new String(kept, StandardCharsets.UTF_8)));
                } catch (CudaException e) {
                    // Made anew: another build of the same version may refuse it.
                    kept = null;
                }
            }
            CudnnPlan plan = new CudnnPlan(graph, handle, choose(graph, handle));
            cache.put(key, Cudnn.getText(plan.descriptor, CudnnNames.PLAN_JSON).getBytes(StandardCharsets.UTF_8));
            return plan;
        } catch (Throwable e) {
            graph.close();
            throw e;
        }
    }

    private static long load(CudnnGraph graph, long handle, String text) {
        long plan = graph.make(CudnnNames.EXECUTION_PLAN);
        Cudnn.set(plan, CudnnNames.PLAN_HANDLE, CudnnNames.TYPE_HANDLE, handle);
        Cudnn.setText(plan, CudnnNames.PLAN_JSON, text);
        Cudnn.finish(plan, CudnnNames.EXECUTION_PLAN);
        return plan;
    }

    /// The first configuration that compiles, of those that cuDNN proposes, best first.
    private static long choose(CudnnGraph graph, long handle) {
        long operations = graph.make(CudnnNames.OPERATION_GRAPH);
        Cudnn.set(operations, CudnnNames.GRAPH_OPERATIONS, CudnnNames.TYPE_DESCRIPTOR, graph.operations());
        Cudnn.set(operations, CudnnNames.GRAPH_HANDLE, CudnnNames.TYPE_HANDLE, handle);
        Cudnn.finish(operations, CudnnNames.OPERATION_GRAPH);
        CudaException refusal = new CudaException("cuDNN proposes no engine", 0);
        for (int mode : new int[] {CudnnNames.MODE_A, CudnnNames.MODE_FALLBACK}) {
            try (Arena arena = Arena.ofConfined()) {
                long heuristics = graph.make(
                        CudnnNames.ENGINE_HEURISTICS,
                        CudnnNames.ENGINE_HEURISTICS_OPERATION_GRAPH,
                        CudnnNames.TYPE_DESCRIPTOR,
                        operations,
                        CudnnNames.ENGINE_HEURISTICS_MODE,
                        CudnnNames.TYPE_HEUR_MODE,
                        mode);
                int proposals = (int) results(heuristics, 0, MemorySegment.NULL);
                MemorySegment configs = arena.allocate(JAVA_LONG, Math.max(1, proposals));
                for (int i = 0; i < proposals; i++) {
                    configs.setAtIndex(JAVA_LONG, i, graph.make(CudnnNames.ENGINE_CONFIG));
                }
                proposals = (int) results(heuristics, proposals, configs);
                for (int i = 0; i < proposals; i++) {
                    try {
                        return graph.make(
                                CudnnNames.EXECUTION_PLAN,
                                CudnnNames.PLAN_ENGINE_CONFIG,
                                CudnnNames.TYPE_DESCRIPTOR,
                                configs.getAtIndex(JAVA_LONG, i));
                    } catch (CudaException e) {
                        refusal = e;
                    }
                }
            } catch (CudaException e) {
                refusal = e;
            }
        }
        throw refusal;
    }

    private static long results(long heuristics, long count, MemorySegment to) {
        return Cudnn.get(heuristics, CudnnNames.ENGINE_HEURISTICS_RESULTS, CudnnNames.TYPE_DESCRIPTOR, count, to);
    }

    /// Bytes that [#execute] needs at an address aligned to 256.
    long workspaceBytes() {
        return workspaceBytes;
    }

    /// Enqueues on the handle's stream.
    ///
    /// @param tensors device addresses
    void execute(Map<Role, Long> tensors, long workspace) {
        List<Bound> bound = graph.bound();
        long[] ids = new long[bound.size()];
        long[] pointers = new long[bound.size()];
        for (int i = 0; i < ids.length; i++) {
            Bound tensor = bound.get(i);
            ids[i] = tensor.id();
            Role role = tensor.role();
            pointers[i] = role != null
                    ? address(tensors, role)
                    : tensor.scratch() ? workspace + tensor.address() : tensor.address();
        }
        long pack = Cudnn.createDescriptor(CudnnNames.VARIANT_PACK);
        try {
            Cudnn.set(pack, CudnnNames.PACK_UNIQUE_IDS, CudnnNames.TYPE_INT64, ids);
            Cudnn.set(pack, CudnnNames.PACK_DATA_POINTERS, CudnnNames.TYPE_VOID_PTR, pointers);
            Cudnn.set(pack, CudnnNames.PACK_WORKSPACE, CudnnNames.TYPE_VOID_PTR, workspace + graph.scratchBytes());
            Cudnn.finish(pack, CudnnNames.VARIANT_PACK);
            Cudnn.execute(handle, descriptor, pack);
        } finally {
            Cudnn.destroyDescriptor(pack);
        }
    }

    private static long address(Map<Role, Long> tensors, Role role) {
        Long address = tensors.get(role);
        if (address == null) {
            throw new IllegalArgumentException("no address of " + role);
        }
        return address;
    }

    @Override
    public void close() {
        graph.close();
    }

    /// A map to fill for [#execute].
    static Map<Role, Long> tensors() {
        return new EnumMap<>(Role.class);
    }
}
