package troika.train.config;

import java.util.ArrayList;
import java.util.List;
import java.util.ServiceLoader;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import troika.plan.Layout;
import troika.tensor.DeviceProvider;
import troika.tensor.Presence;
import troika.tensor.UserException;

/// What `--devices` says, such as `cpu:3` or `cuda:0,1,2`.
///
/// @param kind of device: cpu or cuda
/// @param specification what a provider of that kind opens: the number of CPU ranks, or the number of each
/// rank's card, with commas; a card may serve several ranks
/// @param ranks at least 1
public record Devices(String kind, String specification, int ranks) {
    /// The word that stands for the first cards where there are some that can be used, and for CPU ranks elsewhere.
    public static final String AUTO = "auto";

    private static final String CPU = "cpu";
    private static final String CUDA = "cuda";

    /// Reads `auto`, `cpu` (one rank), `cpu:N`, `cuda` (the first card), `cuda:N`, `cuda:0,1,2` or `cuda:0-2`.
    ///
    /// @param notice hears a sentence where `auto` goes on without a card that is there
    public static Devices of(String text, Consumer<String> notice) {
        return of(text, 1, ServiceLoader.load(DeviceProvider.class), notice);
    }

    /// @param ranks that `auto` is to find devices for
    static Devices of(String text, int ranks, Iterable<DeviceProvider> providers, Consumer<String> notice) {
        if (text.equals(AUTO)) {
            return counted(ranks, "The layout", providers, notice);
        }
        int colon = text.indexOf(':');
        String kind = colon < 0 ? text : text.substring(0, colon);
        String specification = colon < 0 ? "" : text.substring(colon + 1);
        return switch (kind) {
            case CPU -> cpu(text, colon < 0 ? "1" : specification);
            case CUDA -> cuda(text, colon < 0 ? "0" : specification);
            default ->
                throw new UserException("--devices " + text + " names a kind of device that Troika does not have: give "
                        + "auto, cpu:N, for example cpu:3 for three ranks, or cards, such as cuda:0 or cuda:0,1,2.");
        };
    }

    /// The first cards, or CPU ranks where no card can be used.
    ///
    /// @param who asks, as messages begin, such as "--num-gpus 3"
    static Devices counted(int ranks, String who, Iterable<DeviceProvider> providers, Consumer<String> notice) {
        for (DeviceProvider provider : providers) {
            if (provider.kind().equals(CPU)) {
                continue;
            }
            Presence presence = provider.presence();
            int cards = presence.devices();
            if (cards >= ranks) {
                return cards(provider.kind(), IntStream.range(0, ranks).boxed().toList());
            }
            if (cards > 0) {
                throw new UserException(who + " asks for " + ranks + " cards, and there "
                        + (cards == 1 ? "is 1" : "are " + cards) + ": several ranks may share a card, as in --devices "
                        + new Devices(provider.kind(), "0", 1).withRanks(ranks, cards) + ", or run on the CPU with"
                        + " --devices cpu:" + ranks + ".");
            }
            if (!presence.obstacle().isEmpty()) {
                notice.accept("Going on with cpu:" + ranks + ", since the card cannot be used: " + presence.obstacle());
            }
        }
        return cpu("cpu:" + ranks, String.valueOf(ranks));
    }

    /// Devices for so many ranks, of those named; ranks share cards where there are too few.
    ///
    /// @param text as [#of] has it; null: auto
    /// @param numGpus the number of cards where only that is said
    static Devices spread(@Nullable String text, @Nullable Integer numGpus, int ranks, Consumer<String> notice) {
        var providers = ServiceLoader.load(DeviceProvider.class);
        if (text != null && !text.equals(AUTO)) {
            return of(text, 1, providers, notice).withRanks(ranks);
        }
        for (DeviceProvider provider : providers) {
            int cards = provider.kind().equals(CPU) ? 0 : provider.presence().devices();
            if (cards > 0) {
                return new Devices(provider.kind(), "0", 1)
                        .withRanks(ranks, numGpus == null ? cards : Math.clamp(numGpus, 1, cards));
            }
        }
        return counted(ranks, "The layout", providers, notice);
    }

    /// The same kind of devices for another number of ranks: the first of the cards, or these again and again.
    public Devices withRanks(int number) {
        if (kind.equals(CPU)) {
            return cpu("cpu:" + number, String.valueOf(number));
        }
        List<String> cards = List.of(specification.split(",", -1));
        return new Devices(
                kind,
                IntStream.range(0, number)
                        .mapToObj(rank -> cards.get(rank % cards.size()))
                        .collect(Collectors.joining(",")),
                number);
    }

    private Devices withRanks(int number, int cards) {
        return cards(
                kind,
                IntStream.range(0, number).map(rank -> rank % cards).boxed().toList());
    }

    private static Devices cards(String kind, List<Integer> cards) {
        return new Devices(kind, cards.stream().map(String::valueOf).collect(Collectors.joining(",")), cards.size());
    }

    private static Devices cpu(String text, String count) {
        if (!count.matches("[0-9]{1,4}")
                || Integer.parseInt(count) < 1
                || Integer.parseInt(count) > Layout.MOST_RANKS) {
            throw new UserException("--devices " + text + " must give a number of ranks from 1 to " + Layout.MOST_RANKS
                    + " after the colon, for example cpu:3.");
        }
        return new Devices(CPU, String.valueOf(Integer.parseInt(count)), Integer.parseInt(count));
    }

    private static Devices cuda(String text, String specification) {
        List<Integer> cards = new ArrayList<>();
        for (String item : specification.split(",", -1)) {
            if (!item.matches("[0-9]{1,3}(-[0-9]{1,3})?")) {
                throw new UserException("--devices " + text + " does not name a card for each rank: write their"
                        + " numbers, from 0 on, such as cuda:0, cuda:0,1,2, cuda:0-2, or cuda:0,0,0 for three ranks on"
                        + " one card.");
            }
            String[] ends = item.split("-", -1);
            int first = Integer.parseInt(ends[0]);
            int last = Integer.parseInt(ends[ends.length - 1]);
            if (last < first) {
                throw new UserException("--devices " + text + " names the cards " + item
                        + ", which is no range: write the lower number first.");
            }
            IntStream.rangeClosed(first, last).forEach(cards::add);
        }
        if (cards.size() > Layout.MOST_RANKS) {
            throw new UserException("--devices " + text.substring(0, Math.min(40, text.length())) + "… names "
                    + cards.size() + " ranks, more than Troika's limit of " + Layout.MOST_RANKS + ": name fewer.");
        }
        return cards(CUDA, cards);
    }

    @Override
    public String toString() {
        return kind + ":" + specification;
    }
}
