package troika.train;

import java.util.List;
import java.util.Map;

/// How far one job, trained in several layouts, came to the same: everything against the first layout.
///
/// @param layouts as the user wrote them
/// @param losses by layout and step
/// @param weights by layout: for each tensor of the final weights, by its Hugging Face name, the norm of its
/// difference from the first layout's, as a part of that one's norm
/// @param tolerance of losses, relative
/// @param weightTolerance of weights
public record Certificate(
        List<String> layouts,
        List<List<Double>> losses,
        List<Map<String, Double>> weights,
        double tolerance,
        double weightTolerance) {
    public Certificate {
        layouts = List.copyOf(layouts);
        losses = List.copyOf(losses);
        weights = List.copyOf(weights);
    }

    /// The relative difference of a layout's loss.
    ///
    /// @param step from 0
    public double lossDifference(int layout, int step) {
        double expected = losses.getFirst().get(step);
        double actual = losses.get(layout).get(step);
        if (!Double.isFinite(expected) && !Double.isFinite(actual)) {
            return 0;
        }
        return expected == actual ? 0 : Math.abs(actual - expected) / Math.abs(expected);
    }

    /// The largest of a layout's losses' differences.
    public double lossDifference(int layout) {
        double most = 0;
        for (int step = 0; step < losses.getFirst().size(); step++) {
            most = Math.max(most, lossDifference(layout, step));
        }
        return most;
    }

    /// The largest of a layout's weights' differences.
    public double weightDifference(int layout) {
        // max does not hide NaN.
        return weights.get(layout).values().stream().reduce(0.0, Math::max);
    }

    /// Whether a layout came to the same as the first.
    public boolean holds(int layout) {
        return losses.get(layout).size() == losses.getFirst().size()
                && lossDifference(layout) <= tolerance
                && weightDifference(layout) <= weightTolerance;
    }

    /// Whether all came to the same.
    public boolean holds() {
        for (int layout = 0; layout < layouts.size(); layout++) {
            if (!holds(layout)) {
                return false;
            }
        }
        return true;
    }
}
