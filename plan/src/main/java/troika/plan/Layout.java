package troika.plan;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import troika.graph.Range;
import troika.graph.Shares;
import troika.tensor.UserException;

/// Which ranks do which part of the model: pipeline stages, each of data-parallel replicas, each of
/// tensor-parallel ranks. Stages need not be alike, and nothing needs to divide anything.
///
/// What is impossible is refused by a [UserException] of one sentence.
///
/// @param stages in the order in which activations pass through them
/// @param shares a weight for each rank, its speed, in proportion to which layers, heads and sequences are shared
public record Layout(List<Stage> stages, List<Double> shares) {
    /// The most ranks of a layout.
    public static final int MOST_RANKS = 1024;

    private static final double MOST_SHARE = 1e6;

    private static final Pattern STAGE =
            Pattern.compile("([0-9, -]+?)(?::\\s*(?:dp([0-9]{1,9}))?\\s*(?:tp([0-9]{1,9}))?)?");
    private static final String EXAMPLES = "such as \"0,1:dp2 | 2\", \"0,1:tp2 | 2\" or \"0-3:dp2tp2\"";

    /// A run of consecutive decoder layers, or several, and the ranks that hold them.
    ///
    /// @param ranks `ranks[replica * tensorParallel + tensor]`
    public record Stage(List<Integer> ranks, int dataParallel, int tensorParallel) {
        public Stage {
            ranks = List.copyOf(ranks);
            if (dataParallel < 1 || tensorParallel < 1 || ranks.size() != (long) dataParallel * tensorParallel) {
                throw new UserException("A stage of " + counted(ranks.size(), "rank") + " cannot be dp" + dataParallel
                        + "tp" + tensorParallel + ": data-parallel times tensor-parallel size must be the number of"
                        + " its ranks.");
            }
        }

        /// The ranks of a replica, in the order of their tensor index.
        List<Integer> replica(int replica) {
            return ranks.subList(replica * tensorParallel, (replica + 1) * tensorParallel);
        }

        /// The stage as [Layout#parse] reads it.
        @Override
        public String toString() {
            String degrees =
                    (dataParallel > 1 ? "dp" + dataParallel : "") + (tensorParallel > 1 ? "tp" + tensorParallel : "");
            return ranksText() + (degrees.isEmpty() ? "" : ":" + degrees);
        }

        private String ranksText() {
            List<String> runs = new ArrayList<>();
            for (int from = 0; from < ranks.size(); ) {
                int to = from + 1;
                while (to < ranks.size() && ranks.get(to) == ranks.get(to - 1) + 1) {
                    to++;
                }
                if (to - from > 2) {
                    runs.add(ranks.get(from) + "-" + ranks.get(to - 1));
                } else {
                    ranks.subList(from, to).forEach(rank -> runs.add(rank.toString()));
                }
                from = to;
            }
            return String.join(",", runs);
        }
    }

    /// Where a rank is.
    ///
    /// @param tensor its index among the ranks that share each of the replica's blocks
    public record Place(int stage, int replica, int tensor) {}

    public Layout {
        stages = List.copyOf(stages);
        shares = List.copyOf(shares);
        checkRanks(stages);
        int ranks = worldSize(stages);
        if (shares.size() != ranks) {
            throw new UserException(
                    (shares.size() == 1 ? "There is " : "There are ") + counted(shares.size(), "share") + " for "
                            + counted(ranks, "rank") + ": give one for each rank, such as --shares "
                            + String.join(",", Collections.nCopies(ranks, "1")) + ".");
        }
        for (double share : shares) {
            if (!(share > 0) || share > MOST_SHARE) {
                throw new UserException("A rank's share must be above 0 and at most " + (long) MOST_SHARE
                        + ", and one is " + share + ": leave a rank that is to do nothing out of the layout.");
            }
        }
    }

    /// A layout of ranks that are equally fast.
    public Layout(List<Stage> stages) {
        this(stages, Collections.nCopies(worldSize(stages), 1.0));
    }

    private static void checkRanks(List<Stage> stages) {
        if (stages.isEmpty()) {
            throw new UserException("A layout has at least one stage: give one " + EXAMPLES + ".");
        }
        int ranks = worldSize(stages);
        if (ranks > MOST_RANKS) {
            throw new UserException("A layout of " + ranks + " ranks is more than Troika's limit of " + MOST_RANKS
                    + ": use fewer ranks.");
        }
        boolean[] used = new boolean[ranks];
        String text = text(stages);
        for (Stage stage : stages) {
            for (int rank : stage.ranks()) {
                if (rank < 0 || rank >= ranks) {
                    throw new UserException("The layout " + text + " has " + counted(ranks, "rank") + ", one of them "
                            + rank + ": number them from 0 to " + (ranks - 1) + ", each once.");
                }
                if (used[rank]) {
                    throw new UserException("The layout " + text + " uses rank " + rank
                            + " twice: a rank has one place; number ranks from 0 to " + (ranks - 1) + ", each once.");
                }
                used[rank] = true;
            }
        }
    }

    /// Every rank holds the whole model.
    public static Layout dataParallel(int ranks) {
        return grid(ranks, 1, 1);
    }

    /// Stages alike: rank (stage × dp + replica) × tp + tensor.
    public static Layout grid(int dataParallel, int tensorParallel, int stages) {
        BigInteger ranks = BigInteger.valueOf(dataParallel)
                .multiply(BigInteger.valueOf(tensorParallel))
                .multiply(BigInteger.valueOf(stages));
        if (Math.min(dataParallel, Math.min(tensorParallel, stages)) < 1
                || ranks.compareTo(BigInteger.valueOf(MOST_RANKS)) > 0) {
            throw new UserException("A layout of " + dataParallel + " data-parallel × " + tensorParallel
                    + " tensor-parallel × " + stages + " pipeline ranks is impossible: each must be at least 1, and"
                    + " their product at most " + MOST_RANKS + ".");
        }
        int size = dataParallel * tensorParallel;
        return new Layout(IntStream.range(0, stages)
                .mapToObj(stage -> new Stage(
                        IntStream.range(stage * size, (stage + 1) * size)
                                .boxed()
                                .toList(),
                        dataParallel,
                        tensorParallel))
                .toList());
    }

    /// Reads stages separated by `|`, each the numbers of its ranks and what they do: `0,1:dp2 | 2`,
    /// `0,1:tp2 | 2`, `0-3:dp2tp2`. Ranks of which nothing is said are data parallel.
    public static Layout parse(String text) {
        List<Stage> stages = new ArrayList<>();
        for (String part : text.toLowerCase(Locale.ROOT).split("\\|", -1)) {
            stages.add(parseStage(part.strip(), text));
        }
        return new Layout(stages);
    }

    private static Stage parseStage(String part, String text) {
        Matcher matcher = STAGE.matcher(part);
        if (!matcher.matches() || part.endsWith(":")) {
            throw unreadable(part, text);
        }
        List<Integer> ranks = new ArrayList<>();
        for (String item : matcher.group(1).split(",", -1)) {
            ranks(item.strip(), part, text, ranks);
        }
        int dp = matcher.group(2) == null ? 0 : Integer.parseInt(matcher.group(2));
        int tp = matcher.group(3) == null ? 1 : Integer.parseInt(matcher.group(3));
        if (matcher.group(2) == null && tp > 0 && ranks.size() % tp == 0) {
            dp = ranks.size() / tp;
        }
        if (dp < 1 || tp < 1 || (long) dp * tp != ranks.size()) {
            throw new UserException("The stage \"" + part + "\" of the layout \"" + text + "\" has "
                    + counted(ranks.size(), "rank") + ", which "
                    + (matcher.group(2) == null ? "tp" + tp : "dp" + dp + " × tp" + tp)
                    + " does not divide into: write dp and tp whose product is " + ranks.size() + ", such as :dp"
                    + ranks.size() + " or :tp" + ranks.size() + ".");
        }
        return new Stage(ranks, dp, tp);
    }

    /// Adds what `3` or `0-3` names.
    private static void ranks(String item, String part, String text, List<Integer> ranks) {
        if (!item.matches("[0-9]{1,9}(\\s*-\\s*[0-9]{1,9})?")) {
            throw unreadable(part, text);
        }
        String[] ends = item.split("-", -1);
        int first = Integer.parseInt(ends[0].strip());
        int last = Integer.parseInt(ends[ends.length - 1].strip());
        if (last < first || last - first >= MOST_RANKS || ranks.size() > MOST_RANKS) {
            throw new UserException("The ranks " + item + " of the layout \"" + text
                    + "\" are no range: give the lower rank first, and at most " + MOST_RANKS + " ranks.");
        }
        for (int rank = first; rank <= last; rank++) {
            ranks.add(rank);
        }
    }

    private static UserException unreadable(String part, String text) {
        return new UserException("The stage \"" + part + "\" of the layout \"" + text
                + "\" is not understood: write ranks and what they do, " + EXAMPLES + ".");
    }

    /// The same ranks at other speeds.
    ///
    /// @param weights one a rank
    public Layout withShares(List<Double> weights) {
        return new Layout(stages, weights);
    }

    public int worldSize() {
        return worldSize(stages);
    }

    private static int worldSize(List<Stage> stages) {
        return stages.stream().mapToInt(stage -> stage.ranks().size()).sum();
    }

    /// Where a rank is.
    public Place place(int rank) {
        for (int stage = 0; stage < stages.size(); stage++) {
            int index = stages.get(stage).ranks().indexOf(rank);
            if (index >= 0) {
                int tensorParallel = stages.get(stage).tensorParallel();
                return new Place(stage, index / tensorParallel, index % tensorParallel);
            }
        }
        throw new IllegalArgumentException("the layout " + this + " has no rank " + rank);
    }

    /// The ranks that share each block of `rank`'s replica, it included, in the order of their tensor index.
    public List<Integer> tensorGroup(int rank) {
        Place place = place(rank);
        return stages.get(place.stage()).replica(place.replica());
    }

    /// The ranks that hold the same as `rank`, it included, in the order of replicas.
    public List<Integer> dataGroup(int rank) {
        Place place = place(rank);
        Stage stage = stages.get(place.stage());
        return IntStream.range(0, stage.dataParallel())
                .mapToObj(replica -> stage.replica(replica).get(place.tensor()))
                .toList();
    }

    /// What the number of microbatches of a step is a multiple of, so that the replicas of a stage run equally
    /// many: the data-parallel size, or where it differs from stage to stage its least common multiple.
    public int microbatchUnit() {
        int unit = 1;
        for (Stage stage : stages) {
            int dp = stage.dataParallel();
            long multiple = (long) unit
                    / BigInteger.valueOf(unit).gcd(BigInteger.valueOf(dp)).intValue()
                    * dp;
            if (multiple > 1 << 24) {
                throw new UserException("The data-parallel sizes of the layout " + this
                        + " have no least common multiple that a batch could be cut into: make them alike.");
            }
            unit = (int) multiple;
        }
        return unit;
    }

    /// How fast a replica of a stage is: the sum of its ranks' shares.
    public double weight(int stage, int replica) {
        return stages.get(stage).replica(replica).stream()
                .mapToDouble(shares::get)
                .sum();
    }

    /// How fast a stage is.
    public double weight(int stage) {
        return stages.get(stage).ranks().stream().mapToDouble(shares::get).sum();
    }

    /// The decoder layers of each virtual stage, chunk × stages + stage, one behind the other: at least one
    /// each, so that with the head, which the last one computes too, all take as long as the stages' speeds and
    /// whole layers allow.
    ///
    /// @param layers of the model
    /// @param chunks runs of layers that each stage holds: 1, or more for interleaved schedules
    /// @param head layers that take as long as the head
    public List<Range> layers(int layers, int chunks, double head) {
        int pieces = Math.multiplyExact(stages.size(), chunks);
        if (pieces > layers) {
            String most = chunks > 1 && stages.size() <= layers
                    ? "at most " + counted(layers / stages.size(), "chunk")
                    : "at most " + counted(layers, "stage");
            throw new UserException("The layout " + this + " needs " + counted(pieces, "layer") + " ("
                    + counted(stages.size(), "stage")
                    + (chunks > 1 ? " × " + chunks + " chunks" : "") + "), one each at least, and the model has "
                    + layers + ": use " + most + ".");
        }
        if (chunks > 1 && stages.stream().anyMatch(stage -> stage.dataParallel() != dataParallel())) {
            throw new UserException("Stages of several chunks pass activations round and round, for which all need one"
                    + " data-parallel size, and those of the layout " + this
                    + " differ: use one chunk a stage, or stages alike.");
        }
        double speed =
                IntStream.range(0, stages.size()).mapToDouble(this::weight).sum() * chunks;
        List<Double> weights = IntStream.range(0, pieces)
                .mapToObj(piece -> {
                    double share = (layers + head) * weight(piece % stages.size()) / speed;
                    return piece == pieces - 1 ? Math.max(0, share - head) : share;
                })
                .toList();
        Shares shared = new Shares(layers, weights, 1);
        return IntStream.range(0, pieces)
                .mapToObj(piece -> new Range(shared.start(piece), shared.start(piece + 1)))
                .toList();
    }

    private int dataParallel() {
        return stages.getFirst().dataParallel();
    }

    private static String counted(int count, String what) {
        return count + " " + what + (count == 1 ? "" : "s");
    }

    private static String text(List<Stage> stages) {
        return stages.stream().map(Stage::toString).collect(Collectors.joining(" | "));
    }

    /// The text that [#parse] reads; shares are not in it.
    @Override
    public String toString() {
        return text(stages);
    }
}
