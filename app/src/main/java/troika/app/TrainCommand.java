package troika.app;

import java.io.PrintStream;
import java.nio.file.Path;
import troika.plan.Layout;
import troika.train.TrainingResult;
import troika.train.config.TrainingOptions;
import troika.train.config.TrainingOptionsBuilder;

/// `troika train`.
final class TrainCommand implements Command {
    private final TrainingOptionsBuilder run = TrainingOptions.builder();
    private final Options options = new Options(
            "train",
            "Trains a model; options are named as Hugging Face's TrainingArguments, and --config takes DeepSpeed's file.");

    TrainCommand() {
        TrainingFlags.add(options, run);
        options.text(
                        "STAGE|STAGE...",
                        "Stages with their own ranks: \"0,1:dp2 | 2\" (two replicas of the first layers, one of the"
                                + " rest), \"0,1:tp2 | 2\", \"0-3:dp2tp2\". (default: a grid of --tensor-parallel, --pipeline-parallel and replicas)",
                        text -> run.layout(Layout.parse(text)),
                        "--layout")
                .text(
                        "DIR",
                        "Folder of the run. (default: troika-out)",
                        folder -> run.output(Path.of(folder)),
                        "--output")
                .optionalText(
                        "latest|DIR",
                        "latest",
                        "Go on from the newest checkpoint in --output, or from this one.",
                        run::resume,
                        "--resume")
                .text(
                        "FILE",
                        "Write the compiled step as JSON.",
                        file -> run.dumpProgram(Path.of(file)),
                        "--dump-program")
                .count(
                        "Time each instruction of the three steps from this one on, print where the time went beside"
                                + " what was expected of this machine, and write timeline.json and timeline-plan.json"
                                + " (Chrome's trace format) to the run's folder; 0: none. (default: 0)",
                        run::profileStep,
                        "--profile-step");
    }

    @Override
    public String name() {
        return "train";
    }

    @Override
    public Options options() {
        return options;
    }

    @Override
    public void run(PrintStream out) {
        TrainingOptions resolved = run.notice(out::println).build();
        TrainingResult result = TrainingRun.of(resolved, ProgressBar.on(out, resolved.loggingSteps()), out);
        TrainingRun.report(result, out, "token");
    }
}
