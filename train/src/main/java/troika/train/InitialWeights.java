package troika.train;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.zip.CRC32C;
import troika.graph.Parameter;
import troika.train.data.SplitMix;

/// A parameter's random initial values.
///
/// Every [#PIECE] values have a generator of their own, named by seed, parameter and piece, so they depend
/// neither on the layout nor on which thread makes them when.
final class InitialWeights {
    static final int PIECE = 1 << 15;

    private final Parameter parameter;
    private final long seed;

    InitialWeights(Parameter parameter, long seed) {
        CRC32C name = new CRC32C();
        name.update(parameter.name().getBytes(StandardCharsets.UTF_8));
        this.parameter = parameter;
        this.seed = SplitMix.at(seed, name.getValue());
    }

    /// Makes `count` values from `first`, a multiple of [#PIECE], on.
    void fill(long first, int count, float[] target) {
        for (int from = 0; from < count; from += PIECE) {
            fillPiece(first / PIECE + from / PIECE, target, from, Math.min(from + PIECE, count));
        }
    }

    private void fillPiece(long piece, float[] target, int from, int to) {
        if (parameter.initialDeviation() == 0) {
            Arrays.fill(target, from, to, 1);
            return;
        }
        SplittableRandom random = new SplittableRandom(SplitMix.at(seed, piece));
        for (int i = from; i < to; i++) {
            target[i] = (float) (random.nextGaussian() * parameter.initialDeviation());
        }
    }
}
