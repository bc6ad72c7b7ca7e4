package troika.tensor;

/// What devices want of the programs that run on them.
///
/// @param workspaceBytes as [Device#workspaceBytes]
/// @param logitsAtATime as [Device#logitsAtATime]
public record DeviceNeeds(long workspaceBytes, long logitsAtATime) {}
