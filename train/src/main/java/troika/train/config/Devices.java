package troika.train.config;

import java.util.ServiceLoader;
import java.util.function.Consumer;
import troika.tensor.DeviceProvider;
import troika.tensor.Presence;
import troika.tensor.UserException;

/// What `--devices` says, such as `cpu:3`.
///
/// @param kind of device: cpu or cuda
/// @param specification what a provider of that kind opens: the number of CPU ranks, or a card's number
/// @param ranks that work data parallel, at least 1
public record Devices(String kind, String specification, int ranks) {
    /// The word that stands for the first card where there is one that can be used, and for `cpu:1` elsewhere.
    public static final String AUTO = "auto";

    private static final String CPU = "cpu";
    private static final String CUDA = "cuda";
    private static final int MOST_RANKS = 1024;

    /// Reads `auto`, `cpu` (one rank), `cpu:N`, `cuda` (the first card) or `cuda:N`.
    ///
    /// @param notice hears a sentence where `auto` goes on without a card that is there
    public static Devices of(String text, Consumer<String> notice) {
        return of(text, ServiceLoader.load(DeviceProvider.class), notice);
    }

    static Devices of(String text, Iterable<DeviceProvider> providers, Consumer<String> notice) {
        if (text.equals(AUTO)) {
            return automatic(providers, notice);
        }
        int colon = text.indexOf(':');
        String kind = colon < 0 ? text : text.substring(0, colon);
        String specification = colon < 0 ? "" : text.substring(colon + 1);
        return switch (kind) {
            case CPU -> cpu(text, colon < 0 ? "1" : specification);
            case CUDA -> cuda(text, colon < 0 ? "0" : specification);
            default ->
                throw new UserException("--devices " + text + " names a kind of device that Troika does not have: give "
                        + "auto, cpu:N, for example cpu:3 for three ranks, or cuda:0.");
        };
    }

    /// What `--num-gpus` says: 1 is `auto`; more are CPU ranks where there is no card.
    static Devices counted(int ranks, Iterable<DeviceProvider> providers, Consumer<String> notice) {
        if (ranks == 1) {
            return automatic(providers, notice);
        }
        for (DeviceProvider provider : providers) {
            if (usable(provider, ranks, notice)) {
                throw new UserException("--num-gpus " + ranks + " asks for several cards, and training on several "
                        + "comes with the layouts: give --num-gpus 1, or --devices cpu:" + ranks + ".");
            }
        }
        return cpu("cpu:" + ranks, String.valueOf(ranks));
    }

    private static Devices automatic(Iterable<DeviceProvider> providers, Consumer<String> notice) {
        for (DeviceProvider provider : providers) {
            if (usable(provider, 1, notice)) {
                return new Devices(provider.kind(), "0", 1);
            }
        }
        return new Devices(CPU, "1", 1);
    }

    /// Whether a provider has a card that can be used; `notice` hears why one that is there cannot.
    private static boolean usable(DeviceProvider provider, int ranks, Consumer<String> notice) {
        if (provider.kind().equals(CPU)) {
            return false;
        }
        Presence presence = provider.presence();
        if (presence.devices() == 0 && !presence.obstacle().isEmpty()) {
            notice.accept("Going on with cpu:" + ranks + ", since the card cannot be used: " + presence.obstacle());
        }
        return presence.devices() > 0;
    }

    private static Devices cpu(String text, String count) {
        if (!count.matches("[0-9]{1,4}") || Integer.parseInt(count) < 1 || Integer.parseInt(count) > MOST_RANKS) {
            throw new UserException("--devices " + text + " must give a number of ranks from 1 to " + MOST_RANKS
                    + " after the colon, for example cpu:3.");
        }
        return new Devices(CPU, String.valueOf(Integer.parseInt(count)), Integer.parseInt(count));
    }

    private static Devices cuda(String text, String cards) {
        if (cards.matches("[0-9]+(,[0-9]+)+")) {
            throw new UserException("--devices " + text + " names several cards, and training on several comes with "
                    + "the layouts: name one, such as cuda:0.");
        }
        if (!cards.matches("[0-9]{1,3}")) {
            throw new UserException("--devices " + text + " does not name a card: write cuda:N with its number, from "
                    + "0 on, such as cuda:0.");
        }
        return new Devices(CUDA, String.valueOf(Integer.parseInt(cards)), 1);
    }

    @Override
    public String toString() {
        return kind + ":" + specification;
    }
}
