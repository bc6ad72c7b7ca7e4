package troika.plan;

import java.util.List;
import java.util.stream.IntStream;
import troika.tensor.UserException;

/// Which ranks do which part of the model.
public record Layout(List<Stage> stages) {
    /// A run of consecutive blocks and the ranks that hold it.
    ///
    /// @param ranks of the stage: data-parallel replicas, each of `tensorParallel` consecutive ranks
    public record Stage(List<Integer> ranks, int dataParallel, int tensorParallel) {
        public Stage {
            ranks = List.copyOf(ranks);
            if (ranks.size() != dataParallel * tensorParallel) {
                throw new IllegalArgumentException(
                        ranks.size() + " ranks are not " + dataParallel + " × " + tensorParallel);
            }
        }
    }

    public Layout {
        stages = List.copyOf(stages);
        if (stages.size() != 1 || stages.getFirst().tensorParallel() != 1) {
            throw new UserException(
                    "This build trains with data parallelism only: use one stage without tensor parallelism.");
        }
    }

    /// Every rank holds the whole model.
    public static Layout dataParallel(int ranks) {
        return new Layout(List.of(new Stage(IntStream.range(0, ranks).boxed().toList(), ranks, 1)));
    }

    public int worldSize() {
        return stages.stream().mapToInt(stage -> stage.ranks().size()).sum();
    }

    public int dataParallel() {
        return stages.getFirst().dataParallel();
    }
}
