package troika.tensor;

/// A device's memory as its driver or system reports it.
///
/// @param used bytes that this process holds of it; of main memory, what is resident
/// @param free bytes that are left; Long.MAX_VALUE where that is not known beforehand
/// @param overhead bytes that this process may need of it beside what it allocates: the driver's context, code,
/// libraries, graphs; 0 where there is no such limit
public record DeviceMemory(long used, long free, long overhead) {}
