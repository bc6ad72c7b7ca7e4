package troika.tensor;

import java.util.List;

/// Opens the devices of one kind; found by ServiceLoader.
public interface DeviceProvider {
    /// The word before the colon in `--devices cpu:3`.
    String kind();

    /// Opens a device for each rank. Throws [UserException] where the specification is wrong or the
    /// devices cannot be had.
    ///
    /// @param specification what follows the colon, such as "3"; empty for the default
    /// @param deterministic whether every result must be the same, bit for bit, on every call with the
    /// same arguments
    List<Device> open(String specification, boolean deterministic);

    /// What a plan for the devices of a specification must know of them. Quick, so that a plan can be made
    /// while they are opened; throws [UserException] where the specification is wrong.
    DeviceNeeds needs(String specification, boolean deterministic);

    /// Whether devices of this kind can be used here, quickly answered; throws nothing.
    Presence presence();

    /// Looks at the devices of this kind and what they need, and measures them: a few seconds of work. What goes wrong
    /// is a finding too; throws nothing.
    List<Finding> diagnose();
}
