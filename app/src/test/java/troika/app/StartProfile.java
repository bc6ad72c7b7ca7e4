package troika.app;

import java.lang.management.ManagementFactory;
import java.lang.management.ThreadInfo;
import java.lang.management.ThreadMXBean;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;

/// Where the time of a start goes: runs the command with the arguments given, looks every few milliseconds at
/// what its threads do, and prints for each thread what its innermost frames of Troika were, in the order of
/// their first sight.
final class StartProfile {
    private static final long PERIOD_MILLIS = 5;
    private static final int FRAMES = 4;
    private static final int LEAST_SIGHTS = 4;

    private StartProfile() {}

    private static final class Sights {
        private final long first = uptime();
        private long last = first;
        private int count;
    }

    private static long uptime() {
        return ManagementFactory.getRuntimeMXBean().getUptime();
    }

    public static void main(String[] arguments) throws InterruptedException {
        System.out.println("main is entered " + uptime() + " ms after the start of the JVM");
        Thread command = Thread.ofPlatform()
                .name("command")
                .start(() -> Main.run(arguments, System.out, System.err, Path.of("troika-error.log")));
        Map<String, Map<String, Sights>> seen = new TreeMap<>();
        ThreadMXBean threads = ManagementFactory.getThreadMXBean();
        while (command.isAlive()) {
            for (ThreadInfo thread : threads.dumpAllThreads(false, false)) {
                String frames = frames(thread);
                if (!frames.isEmpty()) {
                    Sights sights = seen.computeIfAbsent(thread.getThreadName(), _ -> new TreeMap<>())
                            .computeIfAbsent(frames, _ -> new Sights());
                    sights.last = uptime();
                    sights.count++;
                }
            }
            Thread.sleep(PERIOD_MILLIS);
        }
        seen.forEach((thread, all) -> {
            System.out.println(thread);
            all.entrySet().stream()
                    .filter(entry -> entry.getValue().count >= LEAST_SIGHTS)
                    .sorted((a, b) -> Long.compare(a.getValue().first, b.getValue().first))
                    .forEach(entry -> System.out.printf(
                            Locale.ROOT,
                            "  %6d - %6d ms, seen %5d times: %s%n",
                            entry.getValue().first,
                            entry.getValue().last,
                            entry.getValue().count,
                            entry.getKey()));
        });
    }

    /// The innermost frames of Troika, the outermost of them first.
    private static String frames(ThreadInfo thread) {
        List<String> own = new ArrayList<>(Arrays.stream(thread.getStackTrace())
                .filter(frame -> frame.getClassName().startsWith("troika.")
                        && !frame.getClassName().equals(StartProfile.class.getName()))
                .limit(FRAMES)
                .map(frame ->
                        frame.getClassName().substring(frame.getClassName().lastIndexOf('.') + 1) + "."
                                + frame.getMethodName() + ":" + frame.getLineNumber())
                .toList());
        return String.join(" > ", own.reversed());
    }
}
