package troika.train.config;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import troika.plan.Layout;
import troika.tensor.UserException;

/// One line that says how a run is to be shared, such as `dp3 zero3`, `tp2 pp2`, `pp3 zero-bubble acc4` or
/// `0,1:dp2 | 2 zero2`.
public final class LayoutWords {
    private static final Pattern DEGREE = Pattern.compile("(dp|tp|pp)([0-9]{1,4})");
    private static final Pattern NUMBERED = Pattern.compile("(zero|chunks|acc)([0-9]{1,4})");
    private static final String SHARES = "shares=";
    private static final String EXAMPLES = "write sizes (dp3, tp2 pp2) or a layout (0,1:dp2 | 2), and what else is to"
            + " differ: zero0 to zero3, 1f1b, interleaved, zero-bubble, chunks2, acc4, sequence-parallel, shares=1,1,0.6,"
            + " recompute, no-overlap";

    private LayoutWords() {}

    /// What `base` says, in this layout, on as many ranks as it has of the devices that `base` names.
    public static TrainingOptionsBuilder apply(String line, TrainingOptionsBuilder base) {
        TrainingOptionsBuilder run = base.copy();
        int[] degrees = {1, 1, 1};
        boolean sized = false;
        List<String> rest = new ArrayList<>();
        Map<String, String> kinds = new HashMap<>();
        for (String word : line.strip().toLowerCase(Locale.ROOT).split("\\s+", -1)) {
            String before = kinds.put(kind(word), word);
            if (before != null && !kind(word).isEmpty()) {
                throw new UserException("--layout \"" + line.strip() + "\" says both " + before + " and " + word
                        + ": leave out one of them.");
            }
            Matcher degree = DEGREE.matcher(word);
            if (degree.matches()) {
                int which = List.of("dp", "tp", "pp").indexOf(degree.group(1));
                degrees[which] = Integer.parseInt(degree.group(2));
                sized = true;
            } else if (!option(word, run)) {
                rest.add(word);
            }
        }
        String text = String.join(" ", rest);
        boolean layout = !text.isEmpty() && Character.isDigit(text.charAt(0));
        if ((!text.isEmpty() && !layout) || (layout && sized) || line.isBlank()) {
            throw new UserException("--layout \"" + line.strip() + "\" is not understood: " + EXAMPLES + ".");
        }
        run.layout = layout ? Layout.parse(text) : Layout.grid(degrees[0], degrees[1], degrees[2]);
        Devices devices = Devices.spread(base.devices, base.numGpus, run.layout.worldSize(), base.notice);
        run.devices = devices.toString();
        run.numGpus = null;
        return run;
    }

    /// What a word speaks of, of which a line may speak once; empty for parts of a layout.
    private static String kind(String word) {
        for (Pattern pattern : List.of(DEGREE, NUMBERED)) {
            Matcher matcher = pattern.matcher(word);
            if (matcher.matches()) {
                return matcher.group(1);
            }
        }
        if (word.startsWith(SHARES)) {
            return SHARES;
        }
        return switch (word) {
            case "1f1b", "interleaved", "zero-bubble" -> "schedule";
            case "sequence-parallel", "recompute", "no-overlap" -> word;
            default -> "";
        };
    }

    private static boolean option(String word, TrainingOptionsBuilder run) {
        Matcher numbered = NUMBERED.matcher(word);
        if (numbered.matches()) {
            int number = Integer.parseInt(numbered.group(2));
            switch (numbered.group(1)) {
                case "zero" -> run.zeroStage = number;
                case "chunks" -> run.pipelineChunks = number;
                default -> run.gradientAccumulationSteps = number;
            }
            return true;
        }
        if (word.startsWith(SHARES)) {
            run.shares = Sharing.shares(word.substring(SHARES.length()));
            return true;
        }
        switch (word) {
            case "1f1b", "interleaved", "zero-bubble" -> run.pipelineSchedule = Sharing.schedule(word);
            case "sequence-parallel" -> run.sequenceParallel = true;
            case "recompute" -> run.recompute = Recompute.LAYER;
            case "no-overlap" -> run.overlap = false;
            default -> {
                return false;
            }
        }
        return true;
    }
}
