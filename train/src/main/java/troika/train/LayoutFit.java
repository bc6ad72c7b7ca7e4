package troika.train;

import troika.model.ModelConfig;
import troika.plan.Layout;
import troika.tensor.UserException;
import troika.train.config.Sharing;

/// Whether a model can be shared as a layout says.
final class LayoutFit {
    private LayoutFit() {}

    /// Throws [UserException] where a rank would have nothing of a layer, or a stage no layer.
    static void check(Sharing sharing, ModelConfig config) {
        Layout layout = sharing.layout();
        layout.layers(config.layers(), sharing.chunks(), 0);
        int heads = config.heads();
        int most = Math.min(heads, config.intermediateSize());
        for (Layout.Stage stage : layout.stages()) {
            if (stage.tensorParallel() > most) {
                throw new UserException("The stage " + stage + " of the layout " + layout + " has "
                        + stage.tensorParallel() + " tensor-parallel ranks, and the model has "
                        + (most == heads ? heads + " attention heads" : most + " columns in its MLPs")
                        + ", one each at least: use at most " + most + " tensor-parallel ranks.");
            }
        }
    }
}
