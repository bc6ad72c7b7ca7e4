package troika.cuda;

/// How one rank of a group reads another's memory.
///
/// @param over the rank on whose card the data lies on its way; of [Kind#CARD] only
record Route(Kind kind, int over) {
    enum Kind {
        /// Copies and kernels read it where it lies: on the same card, or on one that this card addresses.
        DIRECT,
        /// Its owner copies it to pinned host memory.
        HOST,
        /// Its owner copies it to a third rank's card, which both reach.
        CARD
    }

    static final Route DIRECT = new Route(Kind.DIRECT, -1);
    static final Route HOST = new Route(Kind.HOST, -1);

    static Route over(int rank) {
        return new Route(Kind.CARD, rank);
    }

    boolean direct() {
        return kind == Kind.DIRECT;
    }

    @Override
    public String toString() {
        return switch (kind) {
            case DIRECT -> "directly";
            case HOST -> "through pinned host memory";
            case CARD -> "over rank " + over + "'s card";
        };
    }
}
