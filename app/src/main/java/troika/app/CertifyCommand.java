package troika.app;

import java.io.PrintStream;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import troika.tensor.UserException;
import troika.train.Certificate;
import troika.train.Certifier;
import troika.train.config.TrainingOptions;
import troika.train.config.TrainingOptionsBuilder;

/// `troika certify`: the same job in several layouts must come to the same.
final class CertifyCommand implements Command {
    private static final int TENSORS_SHOWN = 10;

    private final TrainingOptionsBuilder run = TrainingOptions.builder();
    private final Options options = new Options(
            "certify",
            "Trains one job in several layouts and compares every step's loss and the final weights with the first"
                    + " layout's; exit status 1 where they differ by more than the tolerance. Takes the options of"
                    + " train; 20 steps where --max-steps does not say otherwise. Keeps no files.");
    private List<String> layouts = List.of();
    private @Nullable Double tolerance;
    private @Nullable Path folder;
    private boolean holds;

    CertifyCommand() {
        TrainingFlags.add(options, run);
        options.texts(
                        "LAYOUT",
                        "Two or more: sizes (dp3, \"tp2 pp2\") or stages (\"0,1:dp2 | 2\"), with what else is to differ:"
                                + " zero0 to zero3, 1f1b, interleaved, zero-bubble, chunks2, acc4 (accumulation steps),"
                                + " sequence-parallel, shares=1,1,0.6, recompute, no-overlap. (required)",
                        values -> layouts = values,
                        "--layout")
                .number(
                        "Of losses, relative; of weights, in norm, it is 1e-4 where this is less. (default: 1e-5 in fp32"
                                + " on CPUs, 1e-4 on cards, 5e-3 in bf16 and fp16)",
                        value -> tolerance = value,
                        "--tolerance")
                .text(
                        "DIR",
                        "Folder for temporary files. (default: the system's)",
                        value -> folder = Path.of(value),
                        "--output");
    }

    @Override
    public String name() {
        return "certify";
    }

    @Override
    public Options options() {
        return options;
    }

    @Override
    public int status() {
        return holds ? 0 : 1;
    }

    @Override
    public void run(PrintStream out) {
        Double allowed = tolerance;
        if (allowed != null && !(allowed >= 0)) {
            throw new UserException("--tolerance must be at least 0, and is " + allowed + ".");
        }
        Certifier certifier = new Certifier(run.notice(out::println), layouts, folder, out::println);
        CountDownLatch ended = new CountDownLatch(1);
        Thread onSignal = new Thread(
                () -> {
                    certifier.cancel();
                    try {
                        ended.await();
                    } catch (InterruptedException e) {
                        Thread.currentThread().interrupt();
                    }
                },
                "troika-signal");
        Runtime.getRuntime().addShutdownHook(onSignal);
        Certificate certificate;
        try {
            certificate = certifier.certify(allowed);
        } finally {
            ended.countDown();
            TrainingRun.isStopping(onSignal);
        }
        print(certificate, out);
        holds = certificate.holds();
    }

    static void print(Certificate certificate, PrintStream out) {
        List<String> layouts = certificate.layouts();
        out.println();
        out.println("Differences from " + layouts.getFirst() + ", relative");
        List<List<String>> rows = new ArrayList<>();
        rows.add(row("loss of step", layouts, i -> layouts.get(i)));
        for (int step = 0; step < certificate.losses().getFirst().size(); step++) {
            int at = step;
            rows.add(row(String.valueOf(step + 1), layouts, i -> number(certificate.lossDifference(i, at))));
        }
        rows.add(row("largest", layouts, i -> number(certificate.lossDifference(i))));
        print(rows, out);
        out.println();
        rows.clear();
        rows.add(row("final weights", layouts, i -> layouts.get(i)));
        certificate.weights().getFirst().keySet().stream()
                .sorted(Comparator.comparingDouble((String name) -> -largest(certificate, name))
                        .thenComparing(name -> name))
                .limit(TENSORS_SHOWN)
                .forEach(name -> rows.add(row(
                        name, layouts, i -> number(certificate.weights().get(i).getOrDefault(name, Double.NaN)))));
        rows.add(row("largest", layouts, i -> number(certificate.weightDifference(i))));
        rows.add(row("agrees", layouts, i -> certificate.holds(i) ? "yes" : "NO"));
        print(rows, out);
        out.println();
        out.printf(
                Locale.ROOT,
                "%s: losses within %.1e, weights within %.1e%n",
                certificate.holds() ? "All layouts agree" : "The layouts do not agree",
                certificate.tolerance(),
                certificate.weightTolerance());
    }

    private static double largest(Certificate certificate, String name) {
        return certificate.weights().stream()
                .mapToDouble(of -> of.getOrDefault(name, Double.NaN))
                .reduce(0, Math::max);
    }

    private interface Cell {
        String of(int layout);
    }

    private static List<String> row(String first, List<String> layouts, Cell cell) {
        List<String> row = new ArrayList<>(List.of(first));
        IntStream.range(1, layouts.size()).mapToObj(cell::of).forEach(row::add);
        return row;
    }

    private static String number(double difference) {
        return difference == 0 ? "0" : String.format(Locale.ROOT, "%.2e", difference);
    }

    private static void print(List<List<String>> rows, PrintStream out) {
        int columns = rows.getFirst().size();
        int[] widths = IntStream.range(0, columns)
                .map(column -> rows.stream()
                        .mapToInt(row -> row.get(column).length())
                        .max()
                        .orElse(0))
                .toArray();
        for (List<String> row : rows) {
            StringBuilder line = new StringBuilder();
            for (int column = 0; column < columns; column++) {
                String format = column == 0 ? "%-" + widths[0] + "s" : "  %" + widths[column] + "s";
                line.append(String.format(Locale.ROOT, format, row.get(column)));
            }
            out.println(line);
        }
    }
}
