package troika.app;

import java.io.PrintStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.ServiceLoader;
import tools.jackson.databind.node.ArrayNode;
import tools.jackson.databind.node.ObjectNode;
import troika.model.JsonFields;
import troika.tensor.DeviceProvider;
import troika.tensor.Finding;
import troika.tensor.Presence;

/// `troika doctor`: what this machine has for training, and how fast it is.
final class DoctorCommand implements Command {
    private boolean json;
    private final Options options = new Options(
                    "doctor", "Tells which devices this machine has, how fast they are connected and what is missing.")
            .flag("As JSON.", () -> json = true, "--json");

    @Override
    public String name() {
        return "doctor";
    }

    @Override
    public Options options() {
        return options;
    }

    @Override
    public void run(PrintStream out) {
        List<Finding> findings = new ArrayList<>(own());
        for (DeviceProvider provider : ServiceLoader.load(DeviceProvider.class)) {
            findings.add(devices(provider.kind(), provider.presence()));
            findings.addAll(provider.diagnose());
        }
        out.print(json ? json(findings) : text(findings));
        out.flush();
    }

    private static List<Finding> own() {
        return List.of(
                new Finding(
                        "java",
                        "runtime",
                        Runtime.version().toString(),
                        System.getProperty("java.vendor", "") + ", " + System.getProperty("java.home", "")),
                new Finding(
                        "java",
                        "heap",
                        (Runtime.getRuntime().maxMemory() >> 20) + " MiB",
                        "TROIKA_HEAP sets it; weights and activations lie elsewhere"));
    }

    private static Finding devices(String kind, Presence presence) {
        String value = kind.equals("cpu") ? "cpu:N for N ranks" : presence.devices() == 0 ? "none" : kind + ":0";
        String more = presence.devices() > 1 && !kind.equals("cpu")
                ? "the first card; of " + presence.devices() + " cards: " + kind + ":0-" + (presence.devices() - 1)
                        + " for a rank on each"
                : "";
        return new Finding(kind, "--devices", value, presence.obstacle().isEmpty() ? more : presence.obstacle());
    }

    static String text(List<Finding> findings) {
        StringBuilder text = new StringBuilder();
        int width = findings.stream()
                .mapToInt(finding -> finding.name().length())
                .max()
                .orElse(0);
        String section = "";
        for (Finding finding : findings) {
            if (!finding.section().equals(section)) {
                section = finding.section();
                text.append(text.isEmpty() ? "" : "\n").append(section).append('\n');
            }
            text.append(String.format(Locale.ROOT, "  %-" + width + "s  %s", finding.name(), finding.value()));
            text.append(finding.note().isEmpty() ? "" : " (" + finding.note() + ")")
                    .append('\n');
        }
        return text.toString();
    }

    static String json(List<Finding> findings) {
        ObjectNode root = JsonFields.newObject();
        ArrayNode array = root.putArray("findings");
        for (Finding finding : findings) {
            array.addObject()
                    .put("section", finding.section())
                    .put("name", finding.name())
                    .put("value", finding.value())
                    .put("note", finding.note());
        }
        return root.toPrettyString() + "\n";
    }
}
