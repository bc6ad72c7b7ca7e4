package troika.tensor;

/// One thing that `troika doctor` tells of this machine.
///
/// @param section what it belongs to, such as "cpu" or "cuda:0"
/// @param name what it is, such as "memory bandwidth"
/// @param value with its unit, such as "21.4 GB/s"; "missing" where something is not there
/// @param note where it was found, how it was measured, or what to do about it; may be empty
public record Finding(String section, String name, String value, String note) {
    /// What [#value] says of something that is not there.
    public static final String MISSING = "missing";

    /// Something that is not there.
    ///
    /// @param remedy how to get it
    public static Finding missing(String section, String name, String remedy) {
        return new Finding(section, name, MISSING, remedy);
    }
}
