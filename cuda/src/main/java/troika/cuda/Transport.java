package troika.cuda;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import troika.tensor.DType;
import troika.tensor.Memory;
import troika.tensor.Shape;
import troika.tensor.Tensor;

/// How two ranks read each other's memory.
enum Transport {
    /// They share a card, and its context.
    SAME("within one card"),
    /// Their cards address each other's memory.
    PEER("directly between the cards"),
    /// Through pinned host memory.
    STAGED("through pinned host memory");

    /// Set to "staged", ranks of one card and of cards that reach each other go through host memory too.
    static final String PROPERTY = "troika.cuda.transport";

    private static final long CHECKED_BYTES = 4L << 20;

    /// What was found of two cards, by their ordinals, the lower first: a check costs milliseconds.
    private static final Map<List<Integer>, Link> LINKS = new HashMap<>();

    private final String words;

    Transport(String words) {
        this.words = words;
    }

    String words() {
        return words;
    }

    /// Whether a rank's copies and kernels read the other's memory where it lies.
    boolean direct() {
        return this != STAGED;
    }

    /// @param why it is this one, in words
    record Link(Transport transport, String why) {}

    /// Whether the property asks for host memory everywhere.
    static boolean stagedByProperty() {
        String wanted = System.getProperty(PROPERTY, "");
        if (!wanted.isEmpty() && !wanted.equals("staged")) {
            throw new IllegalArgumentException("-D" + PROPERTY + "=" + wanted + ": it can be staged");
        }
        return wanted.equals("staged");
    }

    /// How the ranks of two devices read each other's memory. Cards that say that they reach each other are
    /// believed when data has come over right: on some machines an IOMMU spoils it.
    static synchronized Link between(CudaDevice a, CudaDevice b) {
        if (stagedByProperty()) {
            return new Link(STAGED, "-D" + PROPERTY + "=staged asks for it");
        }
        if (a.ordinal() == b.ordinal()) {
            return new Link(SAME, "the ranks share a card");
        }
        CudaDevice low = a.ordinal() < b.ordinal() ? a : b;
        CudaDevice high = low == a ? b : a;
        Link link = LINKS.computeIfAbsent(List.of(low.ordinal(), high.ordinal()), _ -> found(low, high));
        if (link.transport == PEER) {
            // Contexts keep it while they last, which is until no rank has the card any more.
            enable(low, high);
        }
        return link;
    }

    private static void enable(CudaDevice a, CudaDevice b) {
        a.bind();
        Peers.enable(b.context());
        b.bind();
        Peers.enable(a.context());
    }

    /// What `canAccess` and the data that came over tell.
    static Link link(boolean reach, boolean right) {
        if (!reach) {
            return new Link(STAGED, "the driver says that the cards cannot reach each other");
        }
        return right
                ? new Link(PEER, "the cards reach each other, data verified")
                : new Link(
                        STAGED,
                        "the cards reach each other by what the driver says, but data comes over wrong, as "
                                + "with an IOMMU that is on");
    }

    private static Link found(CudaDevice a, CudaDevice b) {
        boolean reach = Peers.canAccess(a.handle(), b.handle()) && Peers.canAccess(b.handle(), a.handle());
        if (!reach) {
            return link(false, false);
        }
        enable(a, b);
        return link(true, arrives(a, b) && arrives(b, a));
    }

    /// Whether copies and kernels of one card read from another what was written there.
    private static boolean arrives(CudaDevice from, CudaDevice to) {
        Memory source = from.allocate("check of peers", CHECKED_BYTES);
        Memory target = to.allocate("check of peers", 2 * CHECKED_BYTES);
        Shape shape = Shape.of(CHECKED_BYTES / 4);
        float[] data = new float[(int) (CHECKED_BYTES / 4)];
        SplittableRandom random = new SplittableRandom(from.ordinal());
        for (int i = 0; i < data.length; i++) {
            data[i] = random.nextInt(1 << 24);
        }
        Tensor copied = target.tensor(0, DType.F32, shape);
        Tensor summed = target.tensor(CHECKED_BYTES, DType.F32, shape);
        try (CudaStream stream = (CudaStream) to.stream("check of peers", null)) {
            from.write(source.tensor(0, DType.F32, shape), MemorySegment.ofArray(data));
            to.bind();
            Driver.memcpyAsync(copied.address(), source.address(), CHECKED_BYTES, stream.handle());
            Object[] arguments = SumParts.arguments();
            arguments[0] = source.address();
            new SumParts(to, false).enqueue(stream, DType.F32, arguments, 1, summed.address(), data.length);
            stream.synchronize();
            boolean right = true;
            for (Tensor tensor : List.of(copied, summed)) {
                float[] back = new float[data.length];
                to.read(tensor, MemorySegment.ofArray(back));
                right &= Arrays.equals(data, back);
            }
            return right;
        } finally {
            from.free(source);
            to.free(target);
        }
    }
}
