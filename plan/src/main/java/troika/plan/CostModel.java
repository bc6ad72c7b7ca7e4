package troika.plan;

import java.util.List;
import troika.graph.Op;
import troika.tensor.Shape;

/// What machines a simulated program runs on.
///
/// @param cards by rank
/// @param roots bytes per second, each way, of each PCIe root that several cards share
/// @param hostBytesPerSecond of the host's memory, reads and writes together
/// @param transferMicroseconds that a transfer between ranks takes beside its bytes
public record CostModel(
        List<Card> cards,
        List<Double> roots,
        double hostBytesPerSecond,
        Transport transport,
        double transferMicroseconds) {
    /// How bytes get from card to card.
    public enum Transport {
        /// Up to the host's memory and, piece by piece behind it, down: each byte passes that memory twice.
        STAGED,
        /// From the sender's link to the receiver's.
        PEER
    }

    /// A rank's card and its link to the host.
    ///
    /// @param flopsPerSecond that products reach in the program's dtype
    /// @param attentionFlopsPerSecond that attention reaches, forward and backward together
    /// @param bytesPerSecond of its memory
    /// @param launchMicroseconds that each instruction takes beside its calls
    /// @param upBytesPerSecond to the host
    /// @param downBytesPerSecond from the host
    /// @param root index of the PCIe root that it shares, or -1
    public record Card(
            double flopsPerSecond,
            double attentionFlopsPerSecond,
            double bytesPerSecond,
            double launchMicroseconds,
            double upBytesPerSecond,
            double downBytesPerSecond,
            int root) {
        public Card {
            check(flopsPerSecond);
            check(attentionFlopsPerSecond);
            check(bytesPerSecond);
            check(upBytesPerSecond);
            check(downBytesPerSecond);
            if (!(launchMicroseconds >= 0)) {
                throw new IllegalArgumentException("a launch cannot take " + launchMicroseconds + " µs");
            }
        }
    }

    /// The part of the datasheet's 165 TFLOP/s that large bf16 products are taken to reach.
    private static final double PRODUCT_EFFICIENCY = 0.85;

    public CostModel {
        cards = List.copyOf(cards);
        roots = List.copyOf(roots);
        check(hostBytesPerSecond);
        roots.forEach(CostModel::check);
        for (Card card : cards) {
            if (card.root() < -1 || card.root() >= roots.size()) {
                throw new IllegalArgumentException("there is no root " + card.root());
            }
        }
        if (!(transferMicroseconds >= 0)) {
            throw new IllegalArgumentException("a transfer cannot take " + transferMicroseconds + " µs more");
        }
    }

    private static void check(double rate) {
        if (!(rate > 0) || Double.isInfinite(rate)) {
            throw new IllegalArgumentException("a rate must be positive and finite, not " + rate);
        }
    }

    /// RTX 4090 cards in a desktop with two memory channels: bf16 products at 85 % of the datasheet's 165
    /// TFLOP/s, 1,008 GB/s of memory, 25 GB/s each way over 16 lanes of PCIe 4.0 and in proportion over
    /// fewer, 55 GB/s of host memory, no peer copies. Attention is taken to run at the products' rate.
    ///
    /// @param lanes of each card, as 16, 16, 16 or 8, 8, 4
    public static CostModel rtx4090(List<Integer> lanes) {
        List<Card> cards = lanes.stream()
                .map(width -> {
                    double link = 25e9 * width / 16;
                    double flops = 165e12 * PRODUCT_EFFICIENCY;
                    return new Card(flops, flops, 1008e9, 5, link, link, -1);
                })
                .toList();
        return new CostModel(cards, List.of(), 55e9, Transport.STAGED, 0);
    }

    /// Time of a kernel: its products or its bytes, whichever takes longer.
    double seconds(RankProgram program, Call call) {
        Card card = cards.get(program.rank());
        boolean attention = call.op() instanceof Op.Attention || call.op() instanceof Op.AttentionBackward;
        double rate = attention ? card.attentionFlopsPerSecond() : card.flopsPerSecond();
        return Math.max(flops(program, call) / rate, bytes(program, call) / card.bytesPerSecond());
    }

    /// Floating-point operations of a kernel's products.
    public static long flops(RankProgram program, Call call) {
        return call.op().flops(shapes(specs(program, call.inputs())), shapes(specs(program, call.outputs())));
    }

    /// Bytes that a kernel reads and writes; what it updates it does both to.
    public static long bytes(RankProgram program, Call call) {
        List<TensorSpec> inputs = specs(program, call.inputs());
        List<TensorSpec> outputs = specs(program, call.outputs());
        long updated = switch (call.op()) {
            case Op.AdamW _ -> bytes(outputs.subList(0, 3));
            case Op.Add _ -> bytes(outputs);
            case Op.Accumulating a -> a.accumulate() ? outputs.getFirst().bytes() : 0;
            // Of the table, only the rows of its tokens are read.
            case Op.Embedding _ -> outputs.getFirst().bytes() - inputs.get(1).bytes();
            default -> 0;
        };
        return bytes(inputs) + bytes(outputs) + updated;
    }

    private static long bytes(List<TensorSpec> tensors) {
        return tensors.stream().mapToLong(TensorSpec::bytes).sum();
    }

    private static List<TensorSpec> specs(RankProgram program, List<Integer> ids) {
        return ids.stream().filter(id -> id >= 0).map(program.tensors()::get).toList();
    }

    private static List<Shape> shapes(List<TensorSpec> specs) {
        return specs.stream().map(TensorSpec::shape).toList();
    }
}
