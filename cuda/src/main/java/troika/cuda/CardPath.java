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

/// What two cards can do with each other's memory, found by trying it.
///
/// @param direct whether they address each other's memory, and data comes over right
/// @param shared whether they are the same card
/// @param directRate bytes a second of copies from one to the other, in the slower direction; 0 where they
/// are not direct
/// @param hostRate bytes a second of the slower of the copies from one to pinned memory and from there to
/// the other
/// @param why a clause
record CardPath(boolean direct, boolean shared, double directRate, double hostRate, String why) {
    private static final CardPath SAME =
            new CardPath(true, true, Double.POSITIVE_INFINITY, 0, "the ranks share a card");
    private static final long CHECKED_BYTES = 4L << 20;
    /// A staged collective's pieces have about this size.
    private static final long TIMED_BYTES = 8L << 20;

    /// By the cards' ordinals, the lower first: the cards are the same all the time.
    private static final Map<List<Integer>, CardPath> FOUND = new HashMap<>();

    /// The path between two ranks' cards. Cards that say that they reach each other are believed when data
    /// has come over right: on some machines an IOMMU spoils it.
    static synchronized CardPath between(CudaDevice a, CudaDevice b) {
        if (a.ordinal() == b.ordinal()) {
            return SAME;
        }
        CudaDevice low = a.ordinal() < b.ordinal() ? a : b;
        CudaDevice high = low == a ? b : a;
        return FOUND.computeIfAbsent(List.of(low.ordinal(), high.ordinal()), _ -> find(low, high));
    }

    /// Lets two ranks' cards address each other's memory. Contexts keep it while they last, which is until
    /// no rank has the card any more.
    static void enable(CudaDevice a, CudaDevice b) {
        if (a.ordinal() != b.ordinal()) {
            a.bind();
            Peers.enable(b.context());
            b.bind();
            Peers.enable(a.context());
        }
    }

    /// What the driver and the data that came over tell.
    static CardPath of(boolean reach, boolean right, double directRate, double hostRate) {
        if (!reach) {
            return new CardPath(false, false, 0, hostRate, "the driver says that the cards cannot reach each other");
        }
        return right
                ? new CardPath(true, false, directRate, hostRate, "the cards reach each other, data verified")
                : new CardPath(
                        false,
                        false,
                        0,
                        hostRate,
                        "the cards reach each other by what the driver says, but data comes over wrong, as "
                                + "with an IOMMU that is on");
    }

    /// Tries it.
    static CardPath find(CudaDevice a, CudaDevice b) {
        boolean reach = Peers.canAccess(a.handle(), b.handle()) && Peers.canAccess(b.handle(), a.handle());
        if (reach) {
            enable(a, b);
        }
        boolean right = reach && arrives(a, b) && arrives(b, a);
        try (CardProbe one = new CardProbe(a.ordinal(), TIMED_BYTES);
                CardProbe other = new CardProbe(b.ordinal(), TIMED_BYTES)) {
            one.prepare();
            other.prepare();
            double host = Math.min(
                    Math.min(one.cardToHost(), other.cardToHost()), Math.min(one.hostToCard(), other.hostToCard()));
            double direct = right ? Math.min(one.toCard(other), other.toCard(one)) : 0;
            // Of data that came over wrong, the rate is no number.
            return of(reach, right && direct > 0, direct, host);
        }
    }

    /// Whether copies and kernels of one card read from another what was written there.
    static boolean arrives(CudaDevice from, CudaDevice to) {
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
            new SumParts(to).enqueue(stream, DType.F32, arguments, 1, summed.address(), data.length);
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
