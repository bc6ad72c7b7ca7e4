package troika.cpu;

import static troika.cpu.Vectors.LANES;

import jdk.incubator.vector.FloatVector;
import troika.tensor.Tensor;

/// See [troika.tensor.Kernels#rope].
final class Rope {
    private Rope() {}

    static Runnable rotate(
            Workers workers, Tensor x, Tensor positions, Tensor table, int heads, int headSize, boolean inverse) {
        boolean bf16 = Tasks.isBf16(x);
        Tasks.requireF32(table, "table");
        long xAddress = x.address();
        long positionAddress = positions.address();
        long tableAddress = table.address();
        long rowBytes = x.columns() * x.dtype().bytes();
        long halfBytes = (long) headSize / 2 * x.dtype().bytes();
        return Tasks.overRows(workers, x, (from, to) -> {
            for (int t = from; t < to; t++) {
                long angles = tableAddress + 4L * headSize * Vectors.getI32(positionAddress, t);
                long row = xAddress + t * rowBytes;
                for (int head = 0; head < heads; head++) {
                    long real = row + 2L * head * halfBytes;
                    rotateHead(bf16, real, real + halfBytes, angles, headSize / 2, inverse ? -1 : 1);
                }
            }
        });
    }

    private static void rotateHead(boolean bf16, long real, long imaginary, long angles, int n, float sign) {
        int i = 0;
        if (bf16) {
            for (; i <= n - LANES; i += LANES) {
                rotateLanes(true, real, imaginary, angles, n, sign, i, LANES);
            }
            if (i < n) {
                rotateLanes(true, real, imaginary, angles, n, sign, i, n - i);
            }
        } else {
            for (; i <= n - LANES; i += LANES) {
                rotateLanes(false, real, imaginary, angles, n, sign, i, LANES);
            }
            if (i < n) {
                rotateLanes(false, real, imaginary, angles, n, sign, i, n - i);
            }
        }
    }

    private static void rotateLanes(
            boolean bf16, long real, long imaginary, long angles, int n, float sign, int i, int count) {
        FloatVector cos = Vectors.loadF32(angles + 4L * i, count);
        FloatVector sin = Vectors.loadF32(angles + 4L * (n + i), count).mul(sign);
        FloatVector re = Vectors.load(bf16, real, i, count);
        FloatVector im = Vectors.load(bf16, imaginary, i, count);
        Vectors.storeResult(bf16, real, i, count, re.mul(cos).sub(im.mul(sin)));
        Vectors.storeResult(bf16, imaginary, i, count, im.mul(cos).add(re.mul(sin)));
    }
}
