package troika.cuda;

import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;
import troika.tensor.DType;
import troika.tensor.Tensor;

/// One direction between two ranks of a group, for sends and receives. The sender offers pieces of memory,
/// each with an event behind which it can be read; the receiver takes them in order and records an event
/// when it has read one.
///
/// Where the receiver reads the sender's memory directly, a piece is a tensor, and the sender goes on when the piece
/// is taken: its stream must wait for the receiver's event before anything that follows may overwrite the
/// tensor, and a wait counts only for what has been recorded before it. Otherwise a piece is half of a
/// [Store]; the sender's stream copies out of the tensor itself, so the sender goes on at once, up to two
/// pieces ahead.
///
/// Events are used again, one a half. The sender records `filled` of a half anew only when the piece that
/// was in it is taken: then the receiver has issued its wait. The receiver records `emptied` anew only when
/// the next piece of that half is offered: then the sender has issued its wait, since it waits for the half
/// before it fills it (or, where the memory is read directly, before its send returns).
///
/// Nothing here waits for a card, and what a stream waits for has been issued before the wait, by whichever
/// thread: so streams cannot wait for each other in a circle, also where they share a hardware queue.
final class Channel {
    private static final int HALVES = 2;
    /// Long enough that a transfer of a piece (some 200 µs) covers the issue of the next.
    private static final long HALF_BYTES = 4L << 20;

    private final int from;
    private final int to;
    private final Rendezvous rendezvous;
    private final Route route;
    private final List<CudaDevice> devices;
    private final Offer[] offers = {new Offer(), new Offer()};
    private final AtomicLong offered = new AtomicLong();
    private final AtomicLong taken = new AtomicLong();

    /// The ends' own things, made when each is first used, on the rank's thread; the other end reads the
    /// events behind an offer or a taking.
    private @Nullable SendingEnd sending;

    private @Nullable ReceivingEnd receiving;

    /// A piece, written by the sender before it is offered.
    private static final class Offer {
        DType dtype = DType.F32;
        long elements;
        long address;
        long bytes;
    }

    /// @param store null where the receiver reads the tensor
    private record SendingEnd(CudaDevice device, @Nullable Store store, long[] filled) {}

    private record ReceivingEnd(CudaDevice device, long[] emptied) {}

    /// @param devices by rank
    Channel(int from, int to, Route route, List<CudaDevice> devices, Rendezvous rendezvous) {
        this.from = from;
        this.to = to;
        this.route = route;
        this.devices = devices;
        this.rendezvous = rendezvous;
    }

    /// The pieces of a tensor of so many bytes; a tensor without elements is one of no bytes.
    private long pieceBytes(long bytes) {
        return route.direct() ? Math.max(1, bytes) : HALF_BYTES;
    }

    void send(CudaStream stream, Tensor tensor) {
        SendingEnd own = sendingEnd(stream.device());
        Store store = own.store;
        long most = pieceBytes(tensor.bytes());
        long start = 0;
        do {
            long piece = offered.get();
            int half = (int) (piece % HALVES);
            long bytes = Math.min(most, tensor.bytes() - start);
            // The piece before the last is taken, so this half's events may be recorded anew.
            rendezvous.await(() -> taken.get() > piece - HALVES, () -> "a send of " + text(tensor) + " waits");
            Offer offer = offers[half];
            offer.dtype = tensor.dtype();
            offer.elements = tensor.elements();
            offer.bytes = bytes;
            if (store == null) {
                offer.address = tensor.address();
            } else {
                offer.address = store.address() + half * HALF_BYTES;
                if (piece >= HALVES) {
                    Driver.streamWaitEvent(stream.handle(), receivingEnd().emptied[half]);
                }
                if (bytes > 0) {
                    Driver.memcpyAsync(offer.address, tensor.address() + start, bytes, stream.handle());
                }
            }
            Driver.eventRecord(own.filled[half], stream.handle());
            rendezvous.change(offered::incrementAndGet);
            if (store == null) {
                rendezvous.await(() -> taken.get() > piece, () -> "a send of " + text(tensor) + " waits");
                Driver.streamWaitEvent(stream.handle(), receivingEnd().emptied[half]);
            }
            start += bytes;
        } while (start < tensor.bytes());
    }

    void receive(CudaStream stream, Tensor tensor) {
        ReceivingEnd own = receivingEnd(stream.device());
        long start = 0;
        do {
            long piece = taken.get();
            int half = (int) (piece % HALVES);
            rendezvous.await(() -> offered.get() > piece, () -> "a receive of " + text(tensor) + " waits");
            Offer offer = offers[half];
            if (offer.dtype != tensor.dtype() || offer.elements != tensor.elements()) {
                throw new IllegalStateException("rank " + to + " receives " + text(tensor)
                        + ", and the rank there sends " + offer.dtype + "[" + offer.elements + "]");
            }
            Driver.streamWaitEvent(stream.handle(), sendingEnd().filled[half]);
            if (offer.bytes > 0) {
                Driver.memcpyAsync(tensor.address() + start, offer.address, offer.bytes, stream.handle());
            }
            Driver.eventRecord(own.emptied[half], stream.handle());
            start += offer.bytes;
            rendezvous.change(taken::incrementAndGet);
        } while (start < tensor.bytes());
    }

    private String text(Tensor tensor) {
        return tensor.dtype() + "" + tensor.shape() + " from rank " + from + " to rank " + to;
    }

    private SendingEnd sendingEnd(CudaDevice device) {
        SendingEnd present = sending;
        if (present == null) {
            Store store = route.direct() ? null : Store.take(route, from, devices, HALVES * HALF_BYTES);
            present = new SendingEnd(device, store, events());
            sending = present;
        }
        return present;
    }

    private ReceivingEnd receivingEnd(CudaDevice device) {
        ReceivingEnd present = receiving;
        if (present == null) {
            present = new ReceivingEnd(device, events());
            receiving = present;
        }
        return present;
    }

    private static long[] events() {
        long[] events = new long[HALVES];
        for (int i = 0; i < HALVES; i++) {
            events[i] = Driver.eventCreate(false);
        }
        return events;
    }

    /// The other rank's, behind something that it has done.
    private SendingEnd sendingEnd() {
        return present(sending);
    }

    private ReceivingEnd receivingEnd() {
        return present(receiving);
    }

    private static <T> T present(@Nullable T end) {
        if (end == null) {
            throw new IllegalStateException("the other end of a channel was never used");
        }
        return end;
    }

    /// Gives back what the sending rank has made; on that rank's close.
    void closeSending() {
        SendingEnd end = sending;
        sending = null;
        if (end != null) {
            close(end.device, end.filled);
            if (end.store != null) {
                end.store.free();
            }
        }
    }

    /// As above, of the receiving rank.
    void closeReceiving() {
        ReceivingEnd end = receiving;
        receiving = null;
        if (end != null) {
            close(end.device, end.emptied);
        }
    }

    private static void close(CudaDevice device, long[] events) {
        for (long event : events) {
            device.release(() -> Driver.eventDestroy(event));
        }
    }
}
