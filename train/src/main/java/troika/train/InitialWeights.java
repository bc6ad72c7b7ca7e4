package troika.train;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;
import java.util.zip.CRC32C;
import troika.graph.Parameter;
import troika.train.data.SplitMix;

/// A parameter's random initial values, made by all cores, a part ahead of the one that is in use.
///
/// Every [#PIECE] values have a generator of their own, named by seed, parameter and piece, so they depend
/// neither on the layout nor on the number of cores.
final class InitialWeights {
    private static final int PIECE = 1 << 15;

    private final Parameter parameter;
    private final long seed;
    private final int chunk;
    private float[] values;
    private float[] ahead;
    private CompletableFuture<Void> filling;

    /// @param chunk values of a part, a multiple of a piece
    InitialWeights(Parameter parameter, long seed, int chunk) {
        CRC32C name = new CRC32C();
        name.update(parameter.name().getBytes(StandardCharsets.UTF_8));
        this.parameter = parameter;
        this.seed = SplitMix.at(seed, name.getValue());
        this.chunk = chunk;
        int size = (int) Math.min(chunk, parameter.elements());
        values = new float[size];
        ahead = new float[size];
        filling = fill(0);
    }

    /// The values from `first` on, as many as a part has or are left. Parts must be asked for in order; an
    /// array holds its values until the next part is asked for.
    float[] next(long first) {
        filling.join();
        float[] ready = ahead;
        ahead = values;
        values = ready;
        filling = fill(first + chunk);
        return ready;
    }

    private CompletableFuture<Void> fill(long first) {
        int count = Math.clamp(parameter.elements() - first, 0, chunk);
        float[] target = ahead;
        return CompletableFuture.runAsync(() -> IntStream.range(0, Math.ceilDiv(count, PIECE))
                .parallel()
                .forEach(piece -> fillPiece(first / PIECE + piece, target, piece * PIECE, count)));
    }

    private void fillPiece(long piece, float[] target, int from, int count) {
        int to = Math.min(from + PIECE, count);
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
