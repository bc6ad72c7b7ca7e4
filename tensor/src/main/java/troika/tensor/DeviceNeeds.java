package troika.tensor;

/// What devices want of the programs that run on them: see [DeviceProvider#needs].
///
/// @param workspaceBytes of scratch memory that a stream which runs kernels needs, whatever the shapes
/// @param logitsAtATime how many logits, rows × vocabulary, the loss is best computed of at a time
public record DeviceNeeds(long workspaceBytes, long logitsAtATime) {}
