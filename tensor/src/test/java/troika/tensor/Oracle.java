package troika.tensor;

import java.util.Arrays;

/// The formulas of [Kernels] in plain Java and double precision, row-major, written to be read and not to be fast.
public final class Oracle {
    private Oracle() {}

    public static double[] embedding(int[] tokens, double[] table, int columns, int first) {
        double[] out = new double[tokens.length * columns];
        for (int t = 0; t < tokens.length; t++) {
            int row = tokens[t] - first;
            if (row >= 0 && row < table.length / columns) {
                System.arraycopy(table, row * columns, out, t * columns, columns);
            }
        }
        return out;
    }

    public static double[] embeddingBackward(int[] tokens, double[] gradOut, int rows, int columns, int first) {
        double[] gradTable = new double[rows * columns];
        for (int t = 0; t < tokens.length; t++) {
            int row = tokens[t] - first;
            for (int i = 0; i < columns && row >= 0 && row < rows; i++) {
                gradTable[row * columns + i] += gradOut[t * columns + i];
            }
        }
        return gradTable;
    }

    public static double[] rstd(double[] x, int columns, double epsilon) {
        double[] rstd = new double[x.length / columns];
        for (int t = 0; t < rstd.length; t++) {
            double sum = 0;
            for (int i = 0; i < columns; i++) {
                sum += x[t * columns + i] * x[t * columns + i];
            }
            rstd[t] = 1 / Math.sqrt(sum / columns + epsilon);
        }
        return rstd;
    }

    public static double[] rmsNorm(double[] x, double[] weight, double epsilon) {
        int columns = weight.length;
        double[] rstd = rstd(x, columns, epsilon);
        double[] out = new double[x.length];
        for (int i = 0; i < x.length; i++) {
            out[i] = weight[i % columns] * x[i] * rstd[i / columns];
        }
        return out;
    }

    public static double[] rmsNormGradX(double[] gradOut, double[] x, double[] weight, double[] rstd) {
        int columns = weight.length;
        double[] gradX = new double[x.length];
        for (int t = 0; t < rstd.length; t++) {
            double mean = 0;
            for (int i = 0; i < columns; i++) {
                mean += weight[i] * gradOut[t * columns + i] * x[t * columns + i] / columns;
            }
            for (int i = 0; i < columns; i++) {
                int at = t * columns + i;
                gradX[at] = rstd[t] * (weight[i] * gradOut[at] - x[at] * rstd[t] * rstd[t] * mean);
            }
        }
        return gradX;
    }

    public static double[] rmsNormGradWeight(double[] gradOut, double[] x, double[] rstd, int columns) {
        double[] gradWeight = new double[columns];
        for (int i = 0; i < x.length; i++) {
            gradWeight[i % columns] += gradOut[i] * x[i] * rstd[i / columns];
        }
        return gradWeight;
    }

    /// a `[m, k]` · b `[k, n]`
    public static double[] product(double[] a, double[] b, int m, int k, int n) {
        double[] c = new double[m * n];
        for (int i = 0; i < m; i++) {
            for (int l = 0; l < k; l++) {
                for (int j = 0; j < n; j++) {
                    c[i * n + j] += a[i * k + l] * b[l * n + j];
                }
            }
        }
        return c;
    }

    public static double[] transposed(double[] a, int rows, int columns) {
        double[] b = new double[a.length];
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < columns; j++) {
                b[j * rows + i] = a[i * columns + j];
            }
        }
        return b;
    }

    public static double[] rope(
            double[] x, int columns, int[] positions, double[] table, int heads, int headSize, boolean inverse) {
        double[] out = x.clone();
        int half = headSize / 2;
        for (int t = 0; t < positions.length; t++) {
            for (int head = 0; head < heads; head++) {
                for (int i = 0; i < half; i++) {
                    int at = t * columns + head * headSize + i;
                    double cos = table[positions[t] * headSize + i];
                    double sin = table[positions[t] * headSize + half + i] * (inverse ? -1 : 1);
                    out[at] = x[at] * cos - x[at + half] * sin;
                    out[at + half] = x[at + half] * cos + x[at] * sin;
                }
            }
        }
        return out;
    }

    /// What attention's forward gives.
    public record Attention(double[] out, double[] logSumExp) {}

    public static Attention attention(AttentionShape shape, double[] qkv, int[] positions) {
        int size = shape.headSize();
        double[] out = new double[positions.length * shape.heads() * size];
        double[] logSumExp = new double[shape.batch() * shape.heads() * shape.sequence()];
        for (int t = 0; t < positions.length; t++) {
            for (int head = 0; head < shape.heads(); head++) {
                double[] scores = scores(shape, qkv, positions, t, head);
                double sum = Arrays.stream(scores).map(Math::exp).sum();
                int i = t % shape.sequence();
                int b = t / shape.sequence();
                logSumExp[(b * shape.heads() + head) * shape.sequence() + i] = Math.log(sum);
                int first = t - positions[t];
                for (int j = 0; j < scores.length; j++) {
                    int value = value(shape, first + j, head);
                    for (int d = 0; d < size; d++) {
                        out[(t * shape.heads() + head) * size + d] += Math.exp(scores[j]) / sum * qkv[value + d];
                    }
                }
            }
        }
        return new Attention(out, logSumExp);
    }

    public static double[] attentionBackward(AttentionShape shape, double[] gradOut, double[] qkv, int[] positions) {
        int size = shape.headSize();
        double scale = 1 / Math.sqrt(size);
        double[] gradQkv = new double[qkv.length];
        for (int t = 0; t < positions.length; t++) {
            for (int head = 0; head < shape.heads(); head++) {
                double[] scores = scores(shape, qkv, positions, t, head);
                double sum = Arrays.stream(scores).map(Math::exp).sum();
                int first = t - positions[t];
                int outAt = (t * shape.heads() + head) * size;
                double[] gradProbabilities = new double[scores.length];
                double mean = 0;
                for (int j = 0; j < scores.length; j++) {
                    double probability = Math.exp(scores[j]) / sum;
                    int value = value(shape, first + j, head);
                    for (int d = 0; d < size; d++) {
                        gradQkv[value + d] += probability * gradOut[outAt + d];
                        gradProbabilities[j] += gradOut[outAt + d] * qkv[value + d];
                    }
                    mean += probability * gradProbabilities[j];
                }
                for (int j = 0; j < scores.length; j++) {
                    double gradScore = Math.exp(scores[j]) / sum * (gradProbabilities[j] - mean) * scale;
                    int query = query(shape, t, head);
                    int key = key(shape, first + j, head);
                    for (int d = 0; d < size; d++) {
                        gradQkv[query + d] += gradScore * qkv[key + d];
                        gradQkv[key + d] += gradScore * qkv[query + d];
                    }
                }
            }
        }
        return gradQkv;
    }

    private static double[] scores(AttentionShape shape, double[] qkv, int[] positions, int t, int head) {
        double[] scores = new double[positions[t] + 1];
        for (int j = 0; j < scores.length; j++) {
            int query = query(shape, t, head);
            int key = key(shape, t - positions[t] + j, head);
            for (int d = 0; d < shape.headSize(); d++) {
                scores[j] += qkv[query + d] * qkv[key + d] / Math.sqrt(shape.headSize());
            }
        }
        return scores;
    }

    private static int query(AttentionShape shape, int t, int head) {
        return t * shape.qkvColumns() + head * shape.headSize();
    }

    private static int key(AttentionShape shape, int t, int head) {
        int keyValueHead = head * shape.keyValueHeads() / shape.heads();
        return t * shape.qkvColumns() + (shape.heads() + keyValueHead) * shape.headSize();
    }

    private static int value(AttentionShape shape, int t, int head) {
        return key(shape, t, head) + shape.keyValueHeads() * shape.headSize();
    }

    private static double sigmoid(double x) {
        return 1 / (1 + Math.exp(-x));
    }

    public static double[] swiglu(double[] gateUp, int columns) {
        double[] out = new double[gateUp.length / 2];
        for (int i = 0; i < out.length; i++) {
            int gate = i / columns * 2 * columns + i % columns;
            out[i] = gateUp[gate] * sigmoid(gateUp[gate]) * gateUp[gate + columns];
        }
        return out;
    }

    public static double[] swigluBackward(double[] gradOut, double[] gateUp, int columns) {
        double[] grad = new double[gateUp.length];
        for (int i = 0; i < gradOut.length; i++) {
            int gate = i / columns * 2 * columns + i % columns;
            double g = gateUp[gate];
            double s = sigmoid(g);
            grad[gate] = gradOut[i] * gateUp[gate + columns] * s * (1 + g * (1 - s));
            grad[gate + columns] = gradOut[i] * g * s;
        }
        return grad;
    }

    /// What the cross-entropy gives.
    public record CrossEntropy(double loss, double[] gradient) {}

    public static CrossEntropy crossEntropy(double[] logits, int[] labels, double scale) {
        int columns = logits.length / labels.length;
        double loss = 0;
        double[] gradient = new double[logits.length];
        for (int t = 0; t < labels.length; t++) {
            if (labels[t] >= 0) {
                double[] row = Arrays.copyOfRange(logits, t * columns, (t + 1) * columns);
                double max = Arrays.stream(row).max().orElseThrow();
                double sum = Arrays.stream(row).map(x -> Math.exp(x - max)).sum();
                loss += scale * (max + Math.log(sum) - row[labels[t]]);
                for (int i = 0; i < columns; i++) {
                    double target = i == labels[t] ? 1 : 0;
                    gradient[t * columns + i] = scale * (Math.exp(row[i] - max) / sum - target);
                }
            }
        }
        return new CrossEntropy(loss, gradient);
    }

    /// The parts `[rows, 3]` of a cross-entropy over the columns from `first` on.
    public static double[] crossEntropyPart(double[] logits, int[] labels, int first) {
        int columns = logits.length / labels.length;
        double[] part = new double[3 * labels.length];
        for (int t = 0; t < labels.length; t++) {
            double[] row = Arrays.copyOfRange(logits, t * columns, (t + 1) * columns);
            int column = labels[t] - first;
            if (labels[t] >= 0) {
                double max = Arrays.stream(row).max().orElse(Double.NEGATIVE_INFINITY);
                part[3 * t] = max;
                part[3 * t + 1] = Arrays.stream(row).map(x -> Math.exp(x - max)).sum();
            }
            boolean here = labels[t] >= 0 && column >= 0 && column < columns;
            part[3 * t + 2] = here ? row[column] : Double.NEGATIVE_INFINITY;
        }
        return part;
    }

    /// One step of AdamW, in place.
    public static void adamw(
            double[] master,
            double[] moment1,
            double[] moment2,
            double[] gradient,
            double factor,
            int step,
            long decayed,
            AdamW settings) {
        double beta1 = settings.beta1;
        double beta2 = settings.beta2;
        double rate = settings.learningRate;
        for (int i = 0; i < master.length; i++) {
            double g = factor * gradient[i];
            double p = master[i] * (i < decayed ? 1 - rate * settings.weightDecay : 1);
            moment1[i] = beta1 * moment1[i] + (1 - beta1) * g;
            moment2[i] = beta2 * moment2[i] + (1 - beta2) * g * g;
            double correction = Math.sqrt(1 - Math.pow(beta2, step));
            double denominator = Math.sqrt(moment2[i]) / correction + settings.epsilon;
            master[i] = p - rate / (1 - Math.pow(beta1, step)) * moment1[i] / denominator;
        }
    }

    /// Floats rounded to BF16 by random bits of the elements from `first` on: see [Kernels#adamw].
    ///
    /// @param upper whether by the upper 16 bits, as the second moment is
    public static void roundStochastically(double[] values, int seed, long first, boolean upper) {
        for (int i = 0; i < values.length; i++) {
            int random = randomBits(seed, first + i);
            int bits = Float.floatToRawIntBits((float) values[i]);
            if (Float.isFinite((float) values[i])) {
                bits += upper ? random >>> 16 : random & 0xffff;
            }
            values[i] = Float.intBitsToFloat(bits & 0xffff0000);
        }
    }

    private static int randomBits(int seed, long element) {
        return mix(mix((int) element ^ seed) + (int) (element >>> 32));
    }

    private static int mix(int x) {
        int y = (x ^ x >>> 16) * 0x7feb352d;
        y = (y ^ y >>> 15) * 0x846ca68b;
        return y ^ y >>> 16;
    }

    public record AdamW(float learningRate, float beta1, float beta2, float epsilon, float weightDecay) {}
}
