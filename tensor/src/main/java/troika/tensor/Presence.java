package troika.tensor;

/// Whether a kind of device can be used on this machine.
///
/// @param devices how many there are that can
/// @param obstacle why those that are there cannot be used, a sentence that says what to do; empty where they can, or
/// where there are none
public record Presence(int devices, String obstacle) {
    /// None there.
    public static final Presence NONE = new Presence(0, "");
}
