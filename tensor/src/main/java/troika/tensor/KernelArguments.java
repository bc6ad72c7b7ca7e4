package troika.tensor;

import org.jspecify.annotations.Nullable;

/// What the arguments of each method of [Kernels] must be, whatever the device. A call that breaks a rule throws
/// [IllegalArgumentException] with the rule and all dtypes and shapes of the call. Which compute dtypes a device has is
/// its own matter.
public final class KernelArguments {
    private KernelArguments() {}

    public static void embedding(Tensor tokens, Tensor table, Tensor out) {
        Check check =
                new Check("embedding").and("tokens", tokens).and("table", table).and("out", out);
        check.compute(table, out).integers(tokens);
        check.that(out.rows() == tokens.elements(), "out has a row for each token");
        check.that(out.columns() == table.columns(), "table and out are equally wide");
    }

    public static void embeddingBackward(Tensor tokens, Tensor gradOut, Tensor gradTable) {
        Check check = new Check("embeddingBackward")
                .and("tokens", tokens)
                .and("gradOut", gradOut)
                .and("gradTable", gradTable);
        check.compute(gradOut).floats(gradTable).integers(tokens);
        check.that(gradOut.rows() == tokens.elements(), "gradOut has a row for each token");
        check.that(gradOut.columns() == gradTable.columns(), "gradOut and gradTable are equally wide");
    }

    public static void rmsNorm(Tensor x, Tensor weight, Tensor out, Tensor rstd) {
        Check check = new Check("rmsNorm")
                .and("x", x)
                .and("weight", weight)
                .and("out", out)
                .and("rstd", rstd);
        check.compute(x, weight, out).floats(rstd);
        check.that(weight.elements() == x.columns(), "weight has an element for each column of x");
        check.that(out.rows() == x.rows() && out.columns() == x.columns(), "x and out have the same shape");
        check.that(rstd.elements() == x.rows(), "rstd has an element for each row of x");
    }

    public static void rmsNormBackward(
            Tensor gradOut,
            Tensor x,
            Tensor weight,
            Tensor rstd,
            @Nullable Tensor residual,
            Tensor gradX,
            Tensor gradWeight,
            @Nullable Tensor out) {
        Check check = new Check("rmsNormBackward")
                .and("gradOut", gradOut)
                .and("x", x)
                .and("weight", weight)
                .and("rstd", rstd)
                .and("residual", residual)
                .and("gradX", gradX)
                .and("gradWeight", gradWeight)
                .and("out", out);
        check.compute(x, weight, gradOut, gradX, residual, out).floats(rstd, gradWeight);
        check.that(
                weight.elements() == x.columns() && gradWeight.elements() == x.columns(),
                "weight and gradWeight have an element for each column of x");
        check.that(rstd.elements() == x.rows(), "rstd has an element for each row of x");
        check.sameShape(x, gradOut, gradX, residual, out);
    }

    public static void linear(Tensor x, Tensor weight, @Nullable Tensor residual, Tensor out) {
        Check check = new Check("linear")
                .and("x", x)
                .and("weight", weight)
                .and("residual", residual)
                .and("out", out);
        check.compute(x, weight, out, residual);
        check.product(x, weight, out);
        check.sameShape(out, residual);
    }

    public static void linearBackwardInput(Tensor gradOut, Tensor weight, Tensor gradX) {
        Check check = new Check("linearBackwardInput")
                .and("gradOut", gradOut)
                .and("weight", weight)
                .and("gradX", gradX);
        check.compute(gradOut, weight, gradX);
        check.product(gradX, weight, gradOut);
    }

    public static void linearBackwardWeight(Tensor gradOut, Tensor x, Tensor gradWeight) {
        Check check = new Check("linearBackwardWeight")
                .and("gradOut", gradOut)
                .and("x", x)
                .and("gradWeight", gradWeight);
        check.compute(gradOut, x).floats(gradWeight);
        check.product(x, gradWeight, gradOut);
    }

    public static void rope(Tensor x, Tensor positions, Tensor table, int heads, int headSize) {
        Check check = new Check("rope").and("x", x).and("positions", positions).and("table", table);
        check.compute(x).integers(positions).floats(table);
        check.that(positions.elements() == x.rows(), "positions has an element for each row of x");
        check.that(table.columns() == headSize && headSize % 2 == 0, "table has headSize columns, an even number");
        check.that((long) heads * headSize <= x.columns(), "x has at least heads · headSize columns");
    }

    public static void attention(AttentionShape shape, Tensor qkv, Tensor positions, Tensor out, Tensor logSumExp) {
        Check check = new Check("attention")
                .and("qkv", qkv)
                .and("positions", positions)
                .and("out", out)
                .and("logSumExp", logSumExp);
        check.compute(qkv, out).integers(positions).floats(logSumExp);
        check.attention(shape, qkv, out);
        check.statistics(shape, positions, logSumExp);
    }

    public static void attentionBackward(
            AttentionShape shape,
            Tensor gradOut,
            Tensor qkv,
            Tensor positions,
            Tensor out,
            Tensor logSumExp,
            Tensor gradQkv) {
        Check check = new Check("attentionBackward")
                .and("gradOut", gradOut)
                .and("qkv", qkv)
                .and("positions", positions)
                .and("out", out)
                .and("logSumExp", logSumExp)
                .and("gradQkv", gradQkv);
        check.compute(qkv, out, gradOut, gradQkv).integers(positions).floats(logSumExp);
        check.attention(shape, qkv, out);
        check.attention(shape, gradQkv, gradOut);
        check.statistics(shape, positions, logSumExp);
    }

    public static void attentionDecode(
            AttentionShape shape, Tensor qkv, Tensor position, Tensor keys, Tensor values, Tensor out) {
        Check check = new Check("attentionDecode")
                .and("qkv", qkv)
                .and("position", position)
                .and("keys", keys)
                .and("values", values)
                .and("out", out);
        check.compute(qkv, keys, values, out).integers(position);
        check.that(shape.batch() == 1 && shape.sequence() == 1, "batch and sequence are 1");
        check.attention(shape, qkv, out);
        check.that(position.elements() == 1, "position has one element");
        check.that(
                keys.columns() == (long) shape.keyValueHeads() * shape.headSize(),
                "keys have keyValueHeads · headSize columns");
        check.sameShape(keys, values);
    }

    public static void swiglu(Tensor gateUp, Tensor out) {
        Check check = new Check("swiglu").and("gateUp", gateUp).and("out", out);
        check.compute(gateUp, out);
        check.that(
                gateUp.rows() == out.rows() && gateUp.columns() == 2 * out.columns(), "gateUp is twice as wide as out");
    }

    public static void swigluBackward(Tensor gradOut, Tensor gateUp, Tensor gradGateUp, @Nullable Tensor out) {
        Check check = new Check("swigluBackward")
                .and("gradOut", gradOut)
                .and("gateUp", gateUp)
                .and("gradGateUp", gradGateUp)
                .and("out", out);
        check.compute(gateUp, gradOut, gradGateUp, out);
        check.that(
                gateUp.rows() == gradOut.rows() && gateUp.columns() == 2 * gradOut.columns(),
                "gateUp is twice as wide as gradOut");
        check.sameShape(gateUp, gradGateUp);
        check.sameShape(gradOut, out);
    }

    public static void crossEntropy(Tensor logits, Tensor labels, Tensor scale, Tensor loss) {
        Check check = new Check("crossEntropy")
                .and("logits", logits)
                .and("labels", labels)
                .and("scale", scale)
                .and("loss", loss);
        check.compute(logits).integers(labels).floats(scale, loss);
        check.that(labels.elements() == logits.rows(), "labels has an element for each row of logits");
        check.that(scale.elements() == 1 && loss.elements() == 1, "scale and loss have one element");
    }

    public static void crossEntropyPart(Tensor logits, Tensor labels, Tensor part) {
        Check check = new Check("crossEntropyPart")
                .and("logits", logits)
                .and("labels", labels)
                .and("part", part);
        check.compute(logits).integers(labels).floats(part);
        check.labels(logits, labels);
        check.that(part.elements() == 3 * labels.elements(), "part has three elements for each label");
    }

    public static void crossEntropyWhole(Tensor logits, Tensor labels, Tensor parts, Tensor scale, Tensor loss) {
        Check check = new Check("crossEntropyWhole")
                .and("logits", logits)
                .and("labels", labels)
                .and("parts", parts)
                .and("scale", scale)
                .and("loss", loss);
        check.compute(logits).integers(labels).floats(parts, scale, loss);
        check.labels(logits, labels);
        check.that(
                parts.shape().rank() == 3
                        && parts.shape().size(0) > 0
                        && parts.shape().size(1) == labels.elements()
                        && parts.shape().size(2) == 3,
                "parts is [ranks, rows, 3] for the rows of labels");
        check.that(scale.elements() == 1 && loss.elements() == 1, "scale and loss have one element");
    }

    public static void sumSquares(Tensor x, Tensor out) {
        Check check = new Check("sumSquares").and("x", x).and("out", out);
        check.floats(x, out);
        check.that(out.elements() == 1, "out has one element");
    }

    public static void clipFactor(Tensor sumSquares, Tensor loss, Tensor unscale, Tensor out) {
        Check check = new Check("clipFactor")
                .and("sumSquares", sumSquares)
                .and("loss", loss)
                .and("unscale", unscale)
                .and("out", out);
        check.floats(sumSquares, loss, unscale, out);
        check.that(
                sumSquares.elements() == 1 && loss.elements() == 1 && unscale.elements() == 1 && out.elements() == 2,
                "sumSquares, loss and unscale have one element, out has two");
    }

    public static void adamw(
            Tensor master,
            Tensor moment1,
            Tensor moment2,
            Tensor gradient,
            Tensor weight,
            Tensor clip,
            Tensor scalars,
            long decayed) {
        Check check = new Check("adamw")
                .and("master", master)
                .and("moment1", moment1)
                .and("moment2", moment2)
                .and("gradient", gradient)
                .and("weight", weight)
                .and("clip", clip)
                .and("scalars", scalars);
        check.floats(master, gradient, clip, scalars).compute(weight);
        check.that(
                moment1.dtype() == moment2.dtype() && (moment1.dtype() == DType.F32 || moment1.dtype() == DType.BF16),
                "moments are both F32 or both BF16");
        long n = master.elements();
        check.that(
                moment1.elements() == n
                        && moment2.elements() == n
                        && gradient.elements() == n
                        && weight.elements() == n,
                "all have the same number of elements");
        check.that(clip.elements() == 2 && scalars.elements() == 4, "clip has two elements, scalars has four");
        check.that(decayed >= 0 && decayed <= n, "decayed is a number of the elements");
    }

    public static void copy(Tensor from, Tensor to) {
        Check check = new Check("copy").and("from", from).and("to", to);
        check.that(
                from.dtype() == to.dtype() && from.elements() == to.elements(),
                "dtypes and numbers of elements are the same");
    }

    public static void cast(Tensor from, Tensor to) {
        Check check = new Check("cast").and("from", from).and("to", to);
        check.that(from.dtype().isFloating() && to.dtype().isFloating(), "both dtypes are F32, BF16 or F16");
        check.that(from.elements() == to.elements(), "numbers of elements are the same");
    }

    public static void add(Tensor x, Tensor into) {
        Check check = new Check("add").and("x", x).and("into", into);
        check.compute(x, into);
        check.that(x.elements() == into.elements(), "numbers of elements are the same");
    }

    /// What a kernel was called with, for the message of a call that is wrong.
    private static final class Check {
        private final StringBuilder call;

        Check(String kernel) {
            call = new StringBuilder(kernel).append(':');
        }

        Check and(String name, @Nullable Tensor tensor) {
            if (tensor != null) {
                call.append(' ').append(name).append(' ').append(tensor.dtype()).append(tensor.shape());
            }
            return this;
        }

        void that(boolean condition, String rule) {
            if (!condition) {
                throw new IllegalArgumentException(call + "; but " + rule);
            }
        }

        Check compute(Tensor first, @Nullable Tensor... others) {
            that(first.dtype().isFloating(), "the compute dtype is F32, BF16 or F16");
            for (Tensor other : others) {
                that(other == null || other.dtype() == first.dtype(), "the compute dtype is the same for all");
            }
            return this;
        }

        Check floats(Tensor... tensors) {
            for (Tensor tensor : tensors) {
                that(tensor.dtype() == DType.F32, "masters, gradients of weights, statistics and scalars are F32");
            }
            return this;
        }

        Check integers(Tensor tensor) {
            that(tensor.dtype() == DType.I32, "tokens, labels and positions are I32");
            return this;
        }

        void sameShape(Tensor first, @Nullable Tensor... others) {
            for (Tensor other : others) {
                that(
                        other == null || (other.rows() == first.rows() && other.columns() == first.columns()),
                        "these rows and columns are not the same: "
                                + first.shape()
                                + (other == null ? "" : " and " + other.shape()));
            }
        }

        /// A row of logits for each label, also where a rank has no columns.
        void labels(Tensor logits, Tensor labels) {
            that(
                    logits.elements() == labels.elements() * logits.columns(),
                    "labels has an element for each row of logits");
        }

        /// x `[T, K]`, weight `[N, K]`, out `[T, N]`
        void product(Tensor x, Tensor weight, Tensor out) {
            that(
                    x.rows() == out.rows() && x.columns() == weight.columns() && out.columns() == weight.rows(),
                    "the shapes of the product are [T, K], [N, K] and [T, N]");
        }

        void attention(AttentionShape shape, Tensor qkv, Tensor out) {
            that(
                    shape.keyValueHeads() > 0 && shape.heads() % shape.keyValueHeads() == 0,
                    "keyValueHeads divides heads in " + shape);
            that(shape.headSize() > 0 && shape.headSize() % 8 == 0, "headSize is a multiple of 8 in " + shape);
            long tokens = (long) shape.batch() * shape.sequence();
            that(
                    qkv.elements() == tokens * shape.qkvColumns(),
                    "qkv is [batch · sequence, (heads + 2 keyValueHeads) · headSize] of " + shape);
            that(
                    out.elements() == tokens * shape.heads() * shape.headSize(),
                    "out is [batch · sequence, heads · headSize] of " + shape);
        }

        void statistics(AttentionShape shape, Tensor positions, Tensor logSumExp) {
            long tokens = (long) shape.batch() * shape.sequence();
            that(positions.elements() == tokens, "positions has an element for each token of " + shape);
            that(logSumExp.elements() == tokens * shape.heads(), "logSumExp is [batch, heads, sequence] of " + shape);
        }
    }
}
