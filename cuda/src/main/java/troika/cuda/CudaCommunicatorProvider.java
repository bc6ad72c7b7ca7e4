package troika.cuda;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import troika.comm.CollectiveTrial;
import troika.comm.Communicator;
import troika.comm.CommunicatorProvider;
import troika.tensor.Device;
import troika.tensor.UserException;

/// Connects ranks on cards: through NCCL or by [CudaGroup], along the routes with which its collectives were
/// the fastest when tried.
public final class CudaCommunicatorProvider implements CommunicatorProvider {
    /// "nccl" or "own"; otherwise as [#use] has it.
    static final String PROPERTY = "troika.cuda.collectives";

    /// NCCL's kernels take multiprocessors from the step's products, and copies do not: so it has to be this
    /// much faster by itself. On four cards it was 1.4 times as fast when tried, and a step took 2 % longer.
    private static final double NCCL_FASTER = 2;

    /// What NCCL takes of a card, as seen of 2.28: its code stays loaded when it was tried; in use, it has buffers.
    private static final long NCCL_TRIED_BYTES = 512L << 20;

    private static final long NCCL_USED_BYTES = 1L << 30;

    private static final String NOT_FOUND = "there is no NCCL (libnccl.so.2) here";
    private static final String STAGED = "-D" + Routes.PROPERTY + "=staged asks for it";
    private static final String SHARED = "ranks share a card, which NCCL refuses";

    /// By the cards' ordinals: the machine is the same all the time, and a step has several groups.
    private static final Map<Wanted, Chosen> CHOSEN = new HashMap<>();

    private record Wanted(List<Integer> cards, NcclUse nccl, boolean staged) {}

    /// @param routes of Troika's own collectives, and of what NCCL leaves to them
    /// @param why a sentence
    record Chosen(boolean nccl, Routes routes, String why) {}

    @Override
    public boolean serves(List<Device> devices) {
        return !devices.isEmpty() && devices.stream().allMatch(CudaDevice.class::isInstance);
    }

    @Override
    public List<Communicator> create(List<Device> devices) {
        List<CudaDevice> cards = devices.stream().map(CudaDevice.class::cast).toList();
        CudaGroup.requireSize(cards.size());
        Chosen chosen = choose(cards, deterministic(cards));
        if (cards.size() > 1) {
            cards.forEach(card -> card.note(chosen.why));
        }
        try {
            return group(cards, chosen.nccl, chosen.routes);
        } catch (CudaException | LinkageError e) {
            if (chosen.nccl) {
                throw new UserException(
                        "NCCL does not start (" + e.getMessage() + "): -D" + PROPERTY + "=own does without it.", e);
            }
            throw e;
        }
    }

    private static List<Communicator> group(List<CudaDevice> cards, boolean nccl, Routes routes) {
        return nccl
                ? List.copyOf(new NcclGroup(cards, routes).ranks())
                : List.copyOf(new CudaGroup(cards, routes).ranks());
    }

    /// How the ranks on some cards exchange data: tried where there is something to choose.
    static synchronized Chosen choose(List<CudaDevice> cards, boolean deterministic) {
        NcclUse nccl = use(cards, deterministic);
        Wanted wanted = new Wanted(cards.stream().map(CudaDevice::ordinal).toList(), nccl, Routes.stagedByProperty());
        Chosen chosen = CHOSEN.get(wanted);
        if (chosen == null) {
            chosen = wanted.staged
                    ? choose(cards, List.of(Routes.of(cards.size(), (_, _) -> Route.HOST)), nccl, STAGED)
                    : choose(cards, Routes.candidates(cards.size(), (a, b) -> path(cards, a, b)), nccl, reasons(cards));
            CHOSEN.put(wanted, chosen);
        }
        return chosen;
    }

    private static CardPath path(List<CudaDevice> cards, int a, int b) {
        return CardPath.between(cards.get(a), cards.get(b));
    }

    /// What was found of each pair of cards.
    private static String reasons(List<CudaDevice> cards) {
        Set<String> reasons = new LinkedHashSet<>();
        for (int a = 0; a < cards.size(); a++) {
            for (int b = a + 1; b < cards.size(); b++) {
                reasons.add(path(cards, a, b).why());
            }
        }
        return String.join("; ", reasons);
    }

    /// Takes the fastest of some routes, and NCCL where it may be used and is faster still.
    ///
    /// @param reasons a clause on the routes
    static Chosen choose(List<CudaDevice> cards, List<Routes> candidates, NcclUse nccl, String reasons) {
        Trials trials = new Trials(cards);
        boolean open = nccl.when == NcclUse.When.IF_FASTER;
        Routes best = candidates.getFirst();
        double rate = 0;
        if (candidates.size() > 1 || open) {
            for (Routes routes : candidates) {
                double tried = trials.time("Troika's own " + routes, false, routes);
                if (tried > rate) {
                    rate = tried;
                    best = routes;
                }
            }
        }
        boolean taken = nccl.when == NcclUse.When.ALWAYS;
        String why = nccl.why;
        if (open) {
            try {
                taken = trials.time("NCCL", true, best) > NCCL_FASTER * rate;
                why = taken ? "it is more than twice as fast" : "NCCL is not twice as fast";
            } catch (CudaException | LinkageError e) {
                why = "NCCL does not start (" + e.getMessage() + ")";
            }
        }
        String whose = taken ? "NCCL's, since " + why + "; what it leaves" : "Troika's own, since " + why + "; data";
        return new Chosen(
                taken,
                best,
                "Collectives between ranks are " + whose + " goes " + best + ": " + reasons + "." + trials);
    }

    /// What was tried, to be told.
    private static final class Trials {
        private final List<CudaDevice> cards;
        private final List<String> told = new ArrayList<>();

        Trials(List<CudaDevice> cards) {
            this.cards = cards;
        }

        /// Bytes a second.
        double time(String name, boolean nccl, Routes routes) {
            List<Communicator> group = group(cards, nccl, routes);
            try {
                double rate = CollectiveTrial.run(cards, group).bytesPerSecond();
                told.add(String.format(Locale.ROOT, "%s %.1f", name, rate / 1e9));
                return rate;
            } finally {
                group.forEach(Communicator::close);
            }
        }

        @Override
        public String toString() {
            return told.isEmpty() ? "" : " GB/s received by a rank when tried: " + String.join("; ", told) + ".";
        }
    }

    /// Whether NCCL does a group's collectives.
    ///
    /// @param why a clause, of what is not left to a trial
    record NcclUse(When when, String why) {
        enum When {
            NEVER,
            IF_FASTER,
            ALWAYS
        }
    }

    /// Whether NCCL may do a group's collectives.
    ///
    /// @param property of [#PROPERTY]; empty where it is not set
    /// @param apart whether each rank has a card of its own
    /// @param found whether NCCL is there
    static NcclUse use(String property, int size, boolean apart, boolean deterministic, boolean found) {
        if (property.equals("own")) {
            return never("-D" + PROPERTY + "=own asks for it");
        }
        if (property.equals("nccl")) {
            if (!apart || !found) {
                throw new UserException("-D" + PROPERTY + "=nccl cannot be followed, since "
                        + (apart ? NOT_FOUND : SHARED) + ": leave it out.");
            }
            return new NcclUse(NcclUse.When.ALWAYS, "-D" + PROPERTY + "=nccl asks for it");
        }
        if (!property.isEmpty()) {
            throw new UserException("-D" + PROPERTY + "=" + property + " is unknown: it can be nccl or own.");
        }
        if (size == 1) {
            return never("there is one rank");
        }
        if (!apart) {
            return never(SHARED);
        }
        if (deterministic) {
            return never("NCCL's sums are not in the order of ranks, as a deterministic run needs them");
        }
        return found ? new NcclUse(NcclUse.When.IF_FASTER, "") : never(NOT_FOUND);
    }

    private static NcclUse use(List<CudaDevice> cards, boolean deterministic) {
        boolean apart = cards.stream().mapToInt(CudaDevice::ordinal).distinct().count() == cards.size();
        boolean found = CudaLibraries.nccl() != null;
        return use(System.getProperty(PROPERTY, ""), cards.size(), apart, deterministic, found);
    }

    private static boolean deterministic(List<CudaDevice> cards) {
        return cards.stream().anyMatch(CudaDevice::deterministic);
    }

    /// What NCCL may take of each of some cards, of one rank each or more.
    static long ncclBytes(List<CudaDevice> cards) {
        if (cards.size() < 2) {
            return 0;
        }
        return switch (use(cards, deterministic(cards)).when) {
            case NEVER -> 0;
            case IF_FASTER -> NCCL_TRIED_BYTES;
            case ALWAYS -> NCCL_USED_BYTES;
        };
    }

    private static NcclUse never(String why) {
        return new NcclUse(NcclUse.When.NEVER, why);
    }
}
