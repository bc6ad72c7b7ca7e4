package troika.cuda;

import java.util.List;
import troika.comm.Communicator;
import troika.comm.CommunicatorProvider;
import troika.tensor.Device;
import troika.tensor.UserException;

/// Connects ranks on cards: through NCCL or by [CudaGroup].
public final class CudaCommunicatorProvider implements CommunicatorProvider {
    /// "nccl" or "own"; otherwise as [#choose] has it.
    static final String PROPERTY = "troika.cuda.collectives";

    private static final String NOT_FOUND = "there is no NCCL (libnccl.so.2) here";
    private static final String SHARED = "ranks share a card, which NCCL refuses";

    @Override
    public boolean serves(List<Device> devices) {
        return !devices.isEmpty() && devices.stream().allMatch(CudaDevice.class::isInstance);
    }

    @Override
    public List<Communicator> create(List<Device> devices) {
        List<CudaDevice> cards = devices.stream().map(CudaDevice.class::cast).toList();
        boolean apart = cards.stream().mapToInt(CudaDevice::ordinal).distinct().count() == cards.size();
        boolean deterministic = cards.stream().anyMatch(CudaDevice::deterministic);
        String property = System.getProperty(PROPERTY, "");
        Choice choice = choose(property, cards.size(), apart, deterministic, CudaLibraries.nccl() != null);
        if (choice.nccl) {
            try {
                NcclGroup group = new NcclGroup(cards);
                note(cards, "Collectives between cards are NCCL " + Nccl.version() + "'s: " + choice.why + ".");
                return List.copyOf(group.ranks());
            } catch (CudaException | LinkageError e) {
                if (!property.isEmpty()) {
                    throw new UserException(
                            "NCCL, which -D" + PROPERTY + "=nccl asks for, does not start (" + e.getMessage()
                                    + "): leave the property out.",
                            e);
                }
                choice = new Choice(false, "NCCL does not start (" + e.getMessage() + ")");
            }
        }
        CudaGroup group = new CudaGroup(cards);
        if (cards.size() > 1) {
            note(
                    cards,
                    "Collectives between ranks are Troika's own, since " + choice.why + "; data goes "
                            + group.link().transport().words() + ": "
                            + group.link().why() + ".");
        }
        return List.copyOf(group.ranks());
    }

    private static void note(List<CudaDevice> cards, String note) {
        cards.forEach(card -> card.note(note));
    }

    /// @param why a clause
    record Choice(boolean nccl, String why) {}

    /// Who does a group's collectives.
    ///
    /// @param property of [#PROPERTY]; empty where it is not set
    /// @param apart whether each rank has a card of its own
    /// @param found whether NCCL is there
    static Choice choose(String property, int size, boolean apart, boolean deterministic, boolean found) {
        if (property.equals("own")) {
            return new Choice(false, "-D" + PROPERTY + "=own asks for it");
        }
        if (property.equals("nccl")) {
            if (!apart || !found) {
                throw new UserException("-D" + PROPERTY + "=nccl cannot be followed, since "
                        + (apart ? NOT_FOUND : SHARED) + ": leave it out.");
            }
            return new Choice(true, "-D" + PROPERTY + "=nccl asks for it");
        }
        if (!property.isEmpty()) {
            throw new UserException("-D" + PROPERTY + "=" + property + " is unknown: it can be nccl or own.");
        }
        if (size == 1) {
            return new Choice(false, "there is one rank");
        }
        if (!apart) {
            return new Choice(false, SHARED);
        }
        if (deterministic) {
            return new Choice(false, "NCCL's sums are not in the order of ranks, as a deterministic run needs them");
        }
        return found
                ? new Choice(true, "it was found and each rank has a card of its own")
                : new Choice(false, NOT_FOUND);
    }
}
