package troika.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Attention: documents, grouped heads, several head sizes.
interface AttentionContract extends FixtureHolder {
    // Each sequence holds documents of these lengths, in turn, the last cut off.
    private static int[] positions(AttentionShape shape, int... lengths) {
        int[] positions = new int[shape.batch() * shape.sequence()];
        int document = 0;
        int position = 0;
        for (int t = 0; t < positions.length; t++) {
            if (t % shape.sequence() == 0 || position == lengths[document % lengths.length]) {
                document++;
                position = 0;
            }
            positions[t] = position++;
        }
        return positions;
    }

    @ParameterizedTest
    @CsvSource({
        "F32, 2, 45, 6, 2, 16",
        "F32, 1, 131, 3, 3, 64",
        "F32, 1, 37, 4, 1, 128",
        "BF16, 2, 45, 6, 2, 64",
        "BF16, 1, 131, 3, 3, 32",
        "BF16, 1, 37, 4, 1, 128",
        "F32, 1, 700, 2, 1, 16",
        "BF16, 1, 1100, 2, 1, 32",
        "F16, 2, 45, 6, 2, 64",
        "F16, 1, 131, 3, 3, 128"
    })
    default void attention(DType dtype, int batch, int sequence, int heads, int keyValueHeads, int headSize) {
        AttentionShape shape = new AttentionShape(batch, sequence, heads, keyValueHeads, headSize, true);
        check(dtype, shape, positions(shape, 1, 17, 64, 2));
        fixture().clear();
        check(dtype, shape, positions(shape, sequence));
    }

    private void check(DType dtype, AttentionShape shape, int[] positions) {
        long rows = positions.length;
        long outColumns = (long) shape.heads() * shape.headSize();
        Tensor qkv = fixture().normal(dtype, rows, shape.qkvColumns());
        Tensor positionTensor = fixture().integers(positions);
        Tensor out = fixture().poisoned(dtype, rows, outColumns);
        Tensor logSumExp = fixture().poisoned(DType.F32, shape.batch(), shape.heads(), shape.sequence());

        fixture().run((kernels, stream) -> kernels.attention(stream, shape, qkv, positionTensor, out, logSumExp));

        Oracle.Attention expected = Oracle.attention(shape, fixture().read(qkv), positions);
        fixture().assertClose(dtype, out, expected.out());
        fixture().assertClose(dtype, logSumExp, expected.logSumExp());

        Tensor gradOut = fixture().normal(dtype, rows, outColumns);
        Tensor gradQkv = fixture().poisoned(dtype, rows, shape.qkvColumns());
        fixture().write(out, expected.out());
        fixture().write(logSumExp, expected.logSumExp());

        fixture()
                .run((kernels, stream) -> kernels.attentionBackward(
                        stream, shape, gradOut, qkv, positionTensor, out, logSumExp, gradQkv));

        double[] gradient = Oracle.attentionBackward(
                shape, fixture().read(gradOut), fixture().read(qkv), positions);
        fixture().assertClose(dtype, gradQkv, gradient);
    }

    @ParameterizedTest
    @CsvSource({"F32, 6, 2, 16", "BF16, 4, 1, 64", "F32, 3, 3, 128", "F16, 4, 2, 64"})
    default void decodingGivesTheRowsOfAttention(DType dtype, int heads, int keyValueHeads, int headSize) {
        int sequence = 19;
        AttentionShape whole = new AttentionShape(1, sequence, heads, keyValueHeads, headSize, true);
        AttentionShape one = new AttentionShape(1, 1, heads, keyValueHeads, headSize, false);
        int outColumns = heads * headSize;
        int keyColumns = keyValueHeads * headSize;
        double[] rows = fixture().gaussians((long) sequence * whole.qkvColumns(), 1);
        Tensor all = fixture().poisoned(dtype, sequence, whole.qkvColumns());
        fixture().write(all, rows);
        double[] qkv = fixture().read(all);
        double[] expected =
                Oracle.attention(whole, qkv, positions(whole, sequence)).out();
        Tensor row = fixture().poisoned(dtype, 1, whole.qkvColumns());
        Tensor keys = fixture().poisoned(dtype, sequence + 3, keyColumns);
        Tensor values = fixture().poisoned(dtype, sequence + 3, keyColumns);
        Tensor out = fixture().poisoned(dtype, 1, outColumns);
        Tensor[] positions = new Tensor[sequence];
        for (int t = 0; t < sequence; t++) {
            positions[t] = fixture().integers(t);
        }
        for (int t = 0; t < sequence; t++) {
            int from = t * whole.qkvColumns();
            fixture().write(row, Arrays.copyOfRange(qkv, from, from + whole.qkvColumns()));
            Tensor position = positions[t];

            fixture().run((kernels, stream) -> kernels.attentionDecode(stream, one, row, position, keys, values, out));

            fixture().assertClose(dtype, out, Arrays.copyOfRange(expected, t * outColumns, (t + 1) * outColumns));
            int key = from + outColumns;
            assertThat(Arrays.copyOfRange(fixture().read(keys), t * keyColumns, (t + 1) * keyColumns))
                    .containsExactly(Arrays.copyOfRange(qkv, key, key + keyColumns));
            int value = key + keyColumns;
            assertThat(Arrays.copyOfRange(fixture().read(values), t * keyColumns, (t + 1) * keyColumns))
                    .containsExactly(Arrays.copyOfRange(qkv, value, value + keyColumns));
        }
    }
}
