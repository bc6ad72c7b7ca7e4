package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import troika.cuda.AttentionSlices.Kind;
import troika.tensor.AttentionShape;
import troika.tensor.DType;

class AttentionSlicesTest {
    private static final Kind FORWARD = new Kind(false, false, true);
    private static final Kind FAST = new Kind(true, false, true);
    private static final Kind DETERMINISTIC = new Kind(true, true, true);

    private static AttentionShape dense(int batch, int sequence, int heads, int keyValueHeads, int headSize) {
        return new AttentionShape(batch, sequence, heads, keyValueHeads, headSize, false);
    }

    private static AttentionSlices slices(AttentionShape shape, Kind kind) {
        return Objects.requireNonNull(AttentionSlices.of(shape, kind, CudaDevice.WORKSPACE_BYTES));
    }

    @Test
    void aForwardOfWholeSequencesIsOneCall() {
        assertThat(slices(dense(8, 2048, 16, 16, 128), FORWARD)).isEqualTo(new AttentionSlices(8, 16, 0));
    }

    @Test
    void aFastBackwardIsCutWhereItsSumsDoNotFit() {
        // 4 · 16 · 2048 · 129 bytes a sequence: 8 fit 192 MiB; of twice the length, only 5, so two equal parts.
        assertThat(slices(dense(8, 2048, 16, 16, 128), FAST)).isEqualTo(new AttentionSlices(8, 16, 0));
        assertThat(slices(dense(8, 4096, 16, 16, 128), FAST)).isEqualTo(new AttentionSlices(4, 16, 0));
    }

    @Test
    void aDeterministicBackwardIsCutByHeadsToo() {
        // 2 · 2048² bytes a head: 16 fit; of twice the length, 5, so four parts of 4.
        assertThat(slices(dense(8, 2048, 16, 16, 128), DETERMINISTIC)).isEqualTo(new AttentionSlices(1, 16, 0));
        assertThat(slices(dense(8, 4096, 16, 16, 128), DETERMINISTIC)).isEqualTo(new AttentionSlices(1, 4, 0));
        assertThat(AttentionSlices.of(dense(1, 16384, 2, 2, 64), DETERMINISTIC, CudaDevice.WORKSPACE_BYTES))
                .isNull();
    }

    @Test
    void groupsOfHeadsAreNotCut() {
        AttentionSlices slices = slices(dense(1, 4096, 16, 4, 128), DETERMINISTIC);

        assertThat(slices.keyValueHeads()).isEqualTo(1);
        assertThat(slices.smaller()).isNull();
    }

    @Test
    void documentsHaveSlotsAndTheirListsFit() {
        AttentionShape shape = new AttentionShape(8, 2048, 16, 16, 128, true);

        assertThat(slices(shape, FORWARD)).isEqualTo(new AttentionSlices(8, 16, 17));
        AttentionSlices backward = slices(shape, FAST);
        assertThat(backward).isEqualTo(new AttentionSlices(3, 16, 17));
        assertThat(backward.parts(shape)).isEqualTo(3);
        assertThat(backward.listInts()).isEqualTo(64);
        assertThat(AttentionSlices.of(shape, DETERMINISTIC, CudaDevice.WORKSPACE_BYTES))
                .as("cuDNN's scores of so many whole sequences do not fit")
                .isNull();
    }

    @ParameterizedTest
    @CsvSource({"8, 4096, 16, 4, 64", "3, 1000, 6, 2, 40", "64, 256, 8, 8, 32", "1, 8192, 32, 8, 128"})
    void partsFitAndCoverTheBatch(int batch, int sequence, int heads, int keyValueHeads, int headSize) {
        for (boolean packed : new boolean[] {false, true}) {
            AttentionShape shape = new AttentionShape(batch, sequence, heads, keyValueHeads, headSize, packed);
            for (Kind kind : new Kind[] {FORWARD, FAST, DETERMINISTIC, new Kind(true, false, false)}) {
                AttentionSlices slices = AttentionSlices.of(shape, kind, CudaDevice.WORKSPACE_BYTES);
                if (slices == null) {
                    continue;
                }
                int partHeads = slices.keyValueHeads() * (heads / keyValueHeads);
                assertThat(AttentionSlices.bytes(shape, kind, slices.sequences(), partHeads, slices.slots())
                                + AttentionSlices.listBytes(slices.parts(shape), slices.slots()))
                        .isLessThanOrEqualTo(CudaDevice.WORKSPACE_BYTES);
                assertThat(slices.sequences() * (slices.parts(shape) - 1)).isLessThan(batch);
                assertThat(slices.sequences() * slices.parts(shape)).isGreaterThanOrEqualTo(batch);
                assertThat(slices.slots() > 0).isEqualTo(packed);
            }
        }
    }

    @Test
    void smallerPartsEndAtOneHead() {
        AttentionSlices slices = new AttentionSlices(5, 3, 0);
        int steps = 0;
        for (AttentionSlices next = slices; next != null; next = next.smaller()) {
            slices = next;
            steps++;
        }
        assertThat(slices).isEqualTo(new AttentionSlices(1, 1, 0));
        assertThat(steps).isEqualTo(6);
        assertThat(new AttentionSlices(1, 3, 8).smaller())
                .as("packed sequences keep their heads")
                .isNull();
    }

    @ParameterizedTest
    @EnumSource(
            value = DType.class,
            names = {"F32", "BF16", "F16"})
    void everyTileFitsTheSmallestCard(DType dtype) {
        for (int headSize = 2; headSize <= AttentionTile.MOST_HEAD_SIZE; headSize += 2) {
            AttentionTile tile = AttentionTile.of(dtype, headSize);
            assertThat(tile.padded()).isBetween(headSize, headSize + 31);
            assertThat(tile.forwardBytes()).isBetween(1, AttentionTile.SHARED_BYTES);
            assertThat(tile.backwardKeysBytes()).isBetween(1, AttentionTile.SHARED_BYTES);
            assertThat(tile.backwardQueriesBytes()).isBetween(1, AttentionTile.SHARED_BYTES);
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 7, 258})
    void otherHeadSizesAreRefused(int headSize) {
        assertThatThrownBy(() -> AttentionTile.of(DType.BF16, headSize)).isInstanceOf(IllegalArgumentException.class);
    }

    @Test
    void sourcesAreDefinedByTheirTiles() {
        assertThat(KernelLoader.text(AttentionTile.of(DType.F16, 40).source()))
                .startsWith("#define TYPE f16\n#define PADDED 64\n")
                .contains("attention_backward_keys");
        assertThat(KernelLoader.text(AttentionTile.of(DType.F32, 192).source()))
                .startsWith("#define PADDED 192\n#define TILE 16\n");
    }

    @Test
    void decodingCutsLongCachesIntoFewChunks() {
        assertThat(AttentionKernels.chunkRows(10)).isEqualTo(128);
        assertThat(AttentionKernels.chunkRows(128 * 64 + 1)).isEqualTo(129);
    }

    @Test
    void cudnnIsAskedForWhatItCanDo() {
        AttentionShape shape = dense(1, 128, 2, 2, 64);
        AttentionShape packed = new AttentionShape(1, 128, 2, 2, 64, true);
        long version = 91900;

        assertThat(Attention.refusal(DType.BF16, shape, true, true, 89, version))
                .isEmpty();
        assertThat(Attention.refusal(DType.F16, packed, true, true, 90, version))
                .isEmpty();
        assertThat(Attention.refusal(DType.BF16, packed, false, true, 89, version))
                .isEmpty();
        assertThat(Attention.refusal(DType.BF16, packed, true, false, 89, version))
                .isEmpty();
        assertThat(Attention.refusal(DType.BF16, packed, true, true, 89, version))
                .contains("deterministic");
        assertThat(Attention.refusal(DType.F32, shape, false, false, 90, version))
                .contains("16-bit");
        assertThat(Attention.refusal(DType.BF16, shape, false, false, 90, 0)).contains("not found");
        assertThat(Attention.refusal(DType.BF16, shape, false, false, 90, 91400))
                .contains("older");
        assertThat(Attention.refusal(DType.BF16, dense(1, 128, 2, 2, 36), false, false, 90, version))
                .contains("head sizes");
    }
}
