package troika.cpu;

import static troika.ffi.NativeMemory.ALL;

import java.lang.foreign.MemorySegment;
import java.util.function.IntConsumer;
import troika.tensor.AttentionShape;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#attentionDecode].
final class AttentionDecode {
    private AttentionDecode() {}

    static Runnable run(
            CpuStream stream,
            AttentionShape shape,
            Tensor qkv,
            Tensor position,
            Tensor keys,
            Tensor values,
            Tensor out) {
        boolean half = qkv.dtype() == DType.F16;
        boolean bf16 = !half && Tasks.isBf16(qkv);
        int bytes = qkv.dtype().bytes();
        int size = shape.headSize();
        long cacheRow = (long) shape.keyValueHeads() * size * bytes;
        long query = qkv.address();
        long newKey = query + (long) shape.heads() * size * bytes;
        long positionAddress = position.address();
        long keyCache = keys.address();
        long valueCache = values.address();
        long outAddress = out.address();
        long sums = stream.workspace().address();
        // Of each head: the output's sums, one vector, and of F16 the query and a row of the cache in F32.
        long headFloats = 3L * size + Vectors.LANES;
        Tasks.requireWorkspace(stream.workspace(), 4L * shape.heads() * headFloats);
        float scale2 = (float) (shape.scale() * Softmax.LOG2_E);
        IntConsumer head = h -> {
            int keyHead = (int) ((long) h * shape.keyValueHeads() / shape.heads());
            long column = (long) keyHead * size * bytes;
            long offset = (long) h * size * bytes;
            long sum = sums + 4L * h * headFloats;
            attend(
                    half,
                    bf16,
                    size,
                    Vectors.getI32(positionAddress, 0),
                    query + offset,
                    keyCache + column,
                    valueCache + column,
                    cacheRow,
                    scale2,
                    sum,
                    outAddress + offset);
        };
        return () -> {
            long row = Vectors.getI32(positionAddress, 0) * cacheRow;
            MemorySegment.copy(ALL, newKey, ALL, keyCache + row, cacheRow);
            MemorySegment.copy(ALL, newKey + cacheRow, ALL, valueCache + row, cacheRow);
            stream.workers().parallel(shape.heads(), head);
        };
    }

    private static void attend(
            boolean half,
            boolean bf16,
            int size,
            int position,
            long query,
            long keys,
            long values,
            long row,
            float scale2,
            long sum,
            long out) {
        long scratch = sum + 4L * size;
        long stagedRow = scratch + 4L * Vectors.LANES;
        long q = Attention.staged(half, query, 0, 1, size, stagedRow + 4L * size);
        MemoryOps.zero(sum, 4L * size);
        float largest = Float.NEGATIVE_INFINITY;
        float total = 0;
        for (int t = 0; t <= position; t++) {
            float score = scale2
                    * Softmax.dot(
                            bf16, q, Attention.staged(half, keys + t * row, 0, 1, size, stagedRow), size, scratch);
            if (score > largest) {
                float factor = power2(largest - score);
                Softmax.scale(false, sum, factor, sum, size);
                total *= factor;
                largest = score;
            }
            float p = power2(score - largest);
            total += p;
            Softmax.addScaled(bf16, Attention.staged(half, values + t * row, 0, 1, size, stagedRow), p, sum, size);
        }
        Attention.put(half, bf16, sum, 1 / total, out, size);
    }

    private static float power2(float x) {
        return (float) Math.exp(x / Softmax.LOG2_E);
    }
}
