package troika.graph;

import java.util.Map;
import org.jspecify.annotations.Nullable;

/// A piece of a model that is traced, scheduled and recomputed as one: the embedding, a decoder layer, the
/// head.
public interface Block {
    /// Its name for messages, such as "layers.3".
    String name();

    /// Blocks of one kind trace alike on equal shapes.
    String kind();

    /// Its weights by their names within the block. A weight may belong to several blocks (tied heads).
    Map<String, Parameter> parameters();

    /// Writes the block's ops into the trace.
    ///
    /// @param x the block before's output, null for the first block
    /// @return the input of the block behind, null for the last block
    @Nullable
    Value forward(Trace trace, @Nullable Value x);
}
