package troika.graph;

import java.util.List;
import java.util.stream.IntStream;
import troika.tensor.Shape;

/// One rank of those that hold a layer together (Shoeybi et al. 2019), and the layers whose traces depend on
/// that: products whose weights are split by rows or by columns, the embedding and the loss over a split
/// vocabulary. A model is written with these and with its own local sizes; with one rank they are the plain
/// ones.
///
/// @param ranks how many hold a layer
/// @param index which of them this is
/// @param weights what the ranks' parts are in proportion to, one a rank, positive
/// @param sequence whether the residual stream and the norms are split by tokens (Korthikanti et al. 2022);
/// always false for one rank
public record TensorParallel(int ranks, int index, List<Double> weights, boolean sequence) {
    /// Of collectives over all these ranks.
    public static final String AXIS = "tensor";

    /// Of collectives over the ranks that hold the same key-value head.
    public static final String KEY_VALUE_AXIS = "kv";

    /// No split.
    public static final TensorParallel NONE = new TensorParallel(1, 0, List.of(1.0), false);

    /// Parts are multiples of up to this many columns, which products on cards like.
    private static final long COARSEST = 64;

    /// Each part is at least so many multiples, so that rounding unbalances little.
    private static final long FEWEST = 16;

    /// The attention heads of a rank; each of its key-value heads serves equally many of its query heads.
    ///
    /// @param holders the ranks that hold these key-value heads, this one among them
    public record Heads(Range queries, Range keyValues, List<Integer> holders) {
        public Heads {
            holders = List.copyOf(holders);
        }
    }

    public TensorParallel {
        weights = List.copyOf(weights);
        sequence = sequence && ranks > 1;
        if (index < 0
                || index >= ranks
                || weights.size() != ranks
                || weights.stream().anyMatch(w -> !(w > 0))) {
            throw new IllegalArgumentException("rank " + index + " of " + ranks + " with weights " + weights);
        }
    }

    /// This rank's part of columns or vocabulary rows; not empty where there are at least `ranks`.
    public Range part(long units) {
        long coarse = COARSEST;
        while (coarse > 1 && units / (coarse * ranks) < FEWEST) {
            coarse /= 2;
        }
        Shares shares = new Shares(Math.ceilDiv(units, coarse), weights, 1);
        return new Range(
                Math.min(units, shares.start(index) * coarse), Math.min(units, shares.start(index + 1) * coarse));
    }

    /// This rank's heads. Where there are fewer key-value heads than ranks, several ranks hold one of them.
    public Heads heads(int heads, int keyValueHeads) {
        int group = heads / keyValueHeads;
        if (keyValueHeads >= ranks) {
            Range own = range(new Shares(keyValueHeads, weights, 1), index, 0);
            return new Heads(new Range(own.start() * group, own.end() * group), own, List.of(index));
        }
        Shares dealt = new Shares(ranks, keyValueHeads);
        int head = 0;
        while (dealt.start(head + 1) <= index) {
            head++;
        }
        int first = (int) dealt.start(head);
        int last = (int) dealt.start(head + 1);
        Shares queries = new Shares(group, weights.subList(first, last), 1);
        return new Heads(
                range(queries, index - first, (long) head * group),
                new Range(head, head + 1L),
                IntStream.range(first, last).boxed().toList());
    }

    /// How the ranks share a microbatch's tokens, the rows of blocks' inputs and outputs, under sequence
    /// parallelism.
    public Shares tokens(long tokens) {
        return new Shares(tokens, ranks);
    }

    /// The rows of blocks' inputs and outputs on this rank: all but under sequence parallelism.
    public long localTokens(long tokens) {
        return sequence ? tokens(tokens).size(index) : tokens;
    }

    /// How the ranks hold a norm's weights, all of them everywhere; where they have other tokens each, their
    /// gradients differ.
    public List<Parameter.Copy> copies(long rows) {
        return ranks == 1
                ? List.of()
                : List.of(new Parameter.Copy(new Range(0, rows), sequence ? AXIS : null, index == 0));
    }

    /// The rows of tokens whose rows of the table may be on other ranks.
    ///
    /// @param tokens I32 `[T]`
    public Value embedding(Trace trace, Value tokens, Value table) {
        Value own = trace.embedding(tokens, table);
        return ranks == 1 ? own : wholeOutput(trace, own);
    }

    /// What column-parallel products read: all tokens.
    ///
    /// @param x rows of the residual stream, normed; used by nothing else
    public Value columnInput(Trace trace, Value x) {
        if (ranks == 1) {
            return x;
        }
        return sequence ? trace.gatherRows(x) : trace.shared(x);
    }

    /// A row-parallel product, of which each rank has the part of its columns, plus the residual.
    public Value rowLinear(Trace trace, Value x, Value weight, Value residual, String name) {
        if (ranks == 1) {
            return trace.linear(x, weight, residual, name);
        }
        if (sequence) {
            return trace.add(residual, wholeOutput(trace, trace.linear(x, weight, null, name)));
        }
        // In the sum over ranks the residual must be once.
        Value partial =
                index == 0 ? trace.linear(x, weight, residual, name) : trace.linearBeside(x, weight, residual, name);
        return wholeOutput(trace, partial);
    }

    /// The logits of one token over all of the vocabulary.
    ///
    /// @param x `[1, H]`, from [#columnInput]
    public Value logits(Trace trace, Value x, Value weight) {
        Value own = trace.linear(x, weight, null, "logits");
        return ranks == 1 ? own : trace.gather(own, new Shape(1, trace.wholeRows(weight)));
    }

    /// The loss over the whole vocabulary; see [Trace#lossHead].
    ///
    /// @param x from [#columnInput]
    public void lossHead(Trace trace, Value x, Value weight, Value labels, Value scale, Value loss) {
        trace.lossHead(x, weight, labels, scale, loss, ranks);
    }

    private Value wholeOutput(Trace trace, Value partial) {
        return sequence ? trace.scatterRows(partial, localTokens(Trace.rows(partial))) : trace.sumOverRanks(partial);
    }

    private static Range range(Shares shares, int i, long offset) {
        return new Range(offset + shares.start(i), offset + shares.start(i + 1));
    }
}
