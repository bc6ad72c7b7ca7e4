package troika.plan;

import java.util.EnumMap;
import java.util.Map;

/// The bytes of a rank's device arena by what they are for. Their sum is the arena, exactly.
///
/// @param bytes by role; activations, gradient buffers and gathered weights share one region,
/// counted under ACTIVATIONS
/// @param padding lost to alignment
public record MemoryPlan(int rank, Map<TensorSpec.Role, Long> bytes, long padding, long total) {
    public MemoryPlan {
        bytes = new EnumMap<>(bytes);
    }
}
