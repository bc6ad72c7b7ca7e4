package troika.train.config;

import troika.tensor.UserException;

/// What `--devices` says, such as `cpu:3`.
///
/// @param kind of device: cpu
/// @param ranks that work data parallel, at least 1
public record Devices(String kind, int ranks) {
    private static final int MOST_RANKS = 1024;

    /// Reads `cpu` (one rank) or `cpu:N`.
    public static Devices of(String text) {
        int colon = text.indexOf(':');
        String kind = colon < 0 ? text : text.substring(0, colon);
        String count = colon < 0 ? "1" : text.substring(colon + 1);
        if (!kind.equals("cpu")) {
            throw new UserException(
                    "--devices " + text + " names a kind of device that this build does not have: give cpu:N, "
                            + "for example cpu:3 for three ranks.");
        }
        if (!count.matches("[0-9]{1,4}") || Integer.parseInt(count) < 1 || Integer.parseInt(count) > MOST_RANKS) {
            throw new UserException("--devices " + text + " must give a number of ranks from 1 to " + MOST_RANKS
                    + " after the colon, for example cpu:3.");
        }
        return new Devices(kind, Integer.parseInt(count));
    }

    @Override
    public String toString() {
        return kind + ":" + ranks;
    }
}
