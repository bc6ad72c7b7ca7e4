package troika.train;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.function.BooleanSupplier;
import org.jspecify.annotations.Nullable;
import tools.jackson.databind.node.ObjectNode;
import troika.graph.Model;
import troika.graph.Parameter;
import troika.model.DeepSeekLlm;
import troika.model.ModelConfig;
import troika.model.ModelWeights;
import troika.plan.Compiler;
import troika.plan.MemoryPlan;
import troika.plan.PlanOptions;
import troika.plan.ProgramJson;
import troika.plan.Simulator;
import troika.plan.Timeline;
import troika.plan.TrainingPlan;
import troika.tensor.Device;
import troika.tensor.DeviceNeeds;
import troika.tensor.UserException;
import troika.train.MemoryFit.Choice;
import troika.train.checkpoint.Checkpoints;
import troika.train.config.LossScaling;
import troika.train.config.Recompute;
import troika.train.config.Schedule;
import troika.train.config.TrainingOptions;
import troika.train.data.BatchCursor;
import troika.train.data.Dataset;
import troika.train.data.SplitMix;
import troika.train.engine.Calibration;
import troika.train.engine.Engine;
import troika.train.engine.NonFinite;

/// One training run: opens everything that the options name, so that mistakes show before anything is
/// written, then steps, evaluates and saves.
final class Run implements AutoCloseable {
    private static final String TRAIN = "train";
    private static final String EVALUATE = "evaluate";
    private static final long LOOK_NANOS = 10_000_000_000L;

    private final TrainingOptions options;
    private final TrainingListener listener;
    private final RunDirectory directory;
    private final ModelSource source;
    private final RunFiles files;
    private final ModelConfig config;
    private final RunData data;
    private final CompletableFuture<List<Device>> opening;
    private final List<Device> devices;
    private final Model model;
    private final MemoryPlan memory;
    private final Engine engine;
    private final ModelState state;
    private final Feed feed;
    private final MemorySegment report;
    private final int train;
    /// -1 where there is nothing to evaluate on.
    private final int evaluate;
    private final @Nullable Profile profile;
    private final long totalSteps;
    private final Schedule schedule;
    private long step;
    /// Of them, those that updated nothing.
    private long skipped;
    private LossScaler scaler;
    /// The most that was seen on any device, and when it was last looked at.
    private long memoryBytes;

    private long lookedAtMemory;
    private BatchCursor cursor = BatchCursor.START;
    private long savedStep = -1;
    /// What to close, the last one first.
    private final Deque<Runnable> opened = new ArrayDeque<>();

    Run(TrainingOptions options, TrainingListener listener) {
        this.options = options;
        this.listener = listener;
        String resume = options.resume();
        directory = RunDirectory.check(options.output(), resume);
        @Nullable Path checkpoint = resume == null ? null : directory.checkpoint(resume);
        opened.push(directory::close);
        try {
            source = ModelSource.of(options);
            opened.push(source.tokenizer()::close);
            files = new RunFiles(directory.root(), options, source);
            config = source.config();
            check();
            opening = DeviceFinder.opening(options.devices(), options.deterministic());
            opened.push(() -> DeviceFinder.close(opening));
            if (checkpoint != null) {
                Checkpoints.verify(checkpoint);
                checkSameModel(checkpoint);
            }
            data = RunData.open(options, source.tokenizer(), config.vocabSize());
            opened.push(data::close);
            scaler = LossScaler.start(options.lossScaling());
            if (checkpoint != null) {
                TrainerState saved = TrainerState.read(checkpoint, options.lossScaling());
                saved.check(trainerState(), checkpoint);
                step = saved.step();
                skipped = saved.skipped();
                scaler = saved.scaler();
                cursor = saved.cursor();
            }
            totalSteps = totalSteps();
            if (step > totalSteps) {
                throw new UserException("The checkpoint " + checkpoint + " stands after step " + step
                        + ", beyond the run's " + totalSteps + " steps: raise --max-steps or --num-train-epochs.");
            }
            boolean profiles = options.profileStep() > 0;
            if (profiles) {
                Profile.check(options.profileStep(), step, totalSteps);
            }
            schedule = options.schedule(totalSteps);
            model = DeepSeekLlm.of(config, options.sequenceLength());
            Choice choice = new Choice(options.sharing(), options.batch().accumulation(), options.recompute());
            TrainingPlan plan = plan(choice);
            dump(plan);
            memory = MemoryFit.largest(plan);
            // What need not wait for the devices is done before.
            ObjectNode description = files.description(model.parameterCount(), totalSteps);
            devices = DeviceFinder.join(opening);
            description.put("device", devices.getFirst().name());
            new MemoryFit(choice, options.batch().trainBatchSize(), this::plan).check(plan, devices);
            // Before the arenas take the memory.
            Timeline expected = profiles
                    ? Simulator.simulate(plan.train(), Calibration.measure(plan.train(), devices), Profile.STEPS)
                    : null;
            boolean evaluates = data.evaluation() != null;
            engine = Engine.inProcess(
                    evaluates ? List.of(plan.train(), plan.evaluate()) : List.of(plan.train()), devices);
            opened.push(engine::close);
            train = engine.program(TRAIN);
            evaluate = evaluates ? engine.program(EVALUATE) : -1;
            profile = expected == null
                    ? null
                    : new Profile(options.profileStep(), expected, engine, train, directory.root());
            // Both programs upload from and report to the same host tensors.
            RankMemory arenas = RankMemory.of(engine, plan.train());
            feed = new Feed(arenas, plan.microbatches(), options.sequenceLength());
            report = engine.host(0, train, "host report");
            state = new ModelState(arenas, config, model, options.sharing().layout(), plan.groups(), true);
            loadWeights(checkpoint);
            devices.getFirst().notes().forEach(description.putArray("notes")::add);
            ObjectNode algorithms = description.putObject("algorithms");
            devices.getFirst().algorithms().forEach(algorithms::put);
            directory.start(description, step);
        } catch (RuntimeException | Error e) {
            close();
            throw e;
        }
    }

    /// Refuses a checkpoint of another model: its tensors might fit, all or some, and mean something else.
    private void checkSameModel(Path checkpoint) {
        ModelConfig saved = ModelConfig.read(checkpoint);
        String difference = config.difference(saved);
        if (difference != null) {
            throw new UserException(checkpoint.resolve(ModelConfig.FILE) + ": the checkpoint is of another model than "
                    + options.model() + ", since its " + difference
                    + "; resume with the model that the run began with.");
        }
    }

    private void check() {
        LayoutFit.check(options.sharing(), config);
        if (options.sequenceLength() > config.maxPositions()) {
            throw new UserException("Sequences of " + options.sequenceLength() + " tokens are longer than the model's "
                    + config.maxPositions() + " positions (max_position_embeddings): give --sequence-length "
                    + config.maxPositions() + " or less.");
        }
        if (source.tokenizer().vocabularySize() > config.vocabSize()) {
            throw new UserException("The tokenizer has " + source.tokenizer().vocabularySize()
                    + " tokens, more than the model's vocabulary of " + config.vocabSize()
                    + ": give a model and a tokenizer that belong together.");
        }
    }

    private TrainingPlan plan(Choice choice) {
        LayoutFit.check(choice.sharing(), config);
        return new Compiler(
                        tensor -> DeepSeekLlm.of(config, options.sequenceLength(), tensor),
                        choice.sharing().layout(),
                        planOptions(choice))
                .training();
    }

    /// Weights of a decoder layer; all are alike.
    private long layerElements() {
        return model.blocks().get(1).parameters().values().stream()
                .mapToLong(Parameter::elements)
                .sum();
    }

    private PlanOptions planOptions(Choice choice) {
        DeviceNeeds needs = DeviceFinder.needs(options.devices(), options.deterministic());
        return new PlanOptions(
                options.dtype(),
                options.sequenceLength(),
                options.batch().trainBatchSize(),
                choice.accumulation(),
                choice.sharing().parallelism(layerElements(), model.parameterCount(), choice.accumulation()),
                choice.recompute() == Recompute.LAYER,
                choice.recompute() == Recompute.ELEMENTWISE,
                data.packed(),
                options.optimizerStates(),
                (float) options.adamBeta1(),
                (float) options.adamBeta2(),
                (float) options.adamEpsilon(),
                (float) options.weightDecay(),
                (float) options.maxGradNorm(),
                needs.workspaceBytes(),
                needs.logitsAtATime());
    }

    private void dump(TrainingPlan plan) {
        Path file = options.dumpProgram();
        if (file != null) {
            try {
                ProgramJson.write(file, List.of(plan.train(), plan.evaluate()));
            } catch (IOException e) {
                throw new UserException(
                        "--dump-program " + file
                                + " cannot be written: name a file in a folder that exists and may be written.",
                        e);
            }
        }
    }

    private void loadWeights(@Nullable Path checkpoint) {
        Path weights = source.weights();
        if (checkpoint != null) {
            try (ModelWeights states = ModelWeights.open(checkpoint, ModelState.OPTIMIZER)) {
                state.loadOptimizer(states);
            }
        } else if (weights != null) {
            try (ModelWeights files = ModelWeights.open(weights)) {
                state.load(files);
            }
        } else {
            state.initialize(options.seed());
        }
    }

    private long stepsPerEpoch() {
        return Math.ceilDiv(
                data.training().samplesPerEpoch(), (long) options.batch().trainBatchSize());
    }

    private long totalSteps() {
        if (options.maxSteps() > 0) {
            return options.maxSteps();
        }
        if (options.data().contains(RunData.SYNTHETIC)) {
            throw new UserException("Synthetic data have no end: give --max-steps.");
        }
        return Math.max(1, (long) Math.ceil(options.numTrainEpochs() * stepsPerEpoch()));
    }

    /// Trains to the end, or until `cancelled` says so, and saves.
    TrainingResult train(BooleanSupplier cancelled) {
        long arenas = 0;
        for (int rank = 0; rank < engine.worldSize(); rank++) {
            arenas += engine.arenaBytes(rank);
        }
        listener.onStart(new TrainingStart(
                totalSteps,
                model.parameterCount(),
                engine.worldSize(),
                devices.getFirst().name(),
                devices.getFirst().notes(),
                arenas,
                memory,
                options.sequenceLength(),
                options.batch().trainBatchSize()));
        long began = System.nanoTime();
        long tokens = 0;
        double loss = Double.NaN;
        double evaluationLoss = Double.NaN;
        while (step < totalSteps && !cancelled.getAsBoolean()) {
            long epoch = cursor.epoch();
            StepMetrics metrics = step();
            if (tokens == 0) {
                checkMemory();
            }
            if (!metrics.skipped()) {
                loss = metrics.loss();
            }
            tokens += metrics.tokens();
            boolean last = step == totalSteps;
            double evaluated = Double.NaN;
            if (data.evaluation() != null && (last || (options.evalSteps() > 0 && step % options.evalSteps() == 0))) {
                interrupted();
                evaluated = evaluate(data.evaluation());
                evaluationLoss = evaluated;
            }
            directory.log(metrics, evaluated);
            listener.onStep(metrics);
            if (profile != null && profile.ends(step)) {
                profile.report().forEach(listener::onMessage);
            }
            if (!Double.isNaN(evaluated)) {
                listener.onEvaluation(step, evaluated);
            }
            if (savesNow(cursor.epoch() > epoch)) {
                interrupted();
                save();
            }
        }
        engine.drain();
        double rate = (double) tokens / Math.max(1e-9, (System.nanoTime() - began) / 1e9);
        lookAtMemory();
        boolean stopped = step < totalSteps;
        if (stopped && savedStep != step) {
            save();
        }
        Path result = stopped ? Checkpoints.directory(directory.root(), step) : files.model(state);
        TrainingResult outcome = new TrainingResult(step, loss, evaluationLoss, rate, memoryBytes, result, stopped);
        listener.onEnd(outcome);
        return outcome;
    }

    private StepMetrics step() {
        long began = System.nanoTime();
        BatchCursor.Batch batch = cursor.next(data.training(), feed.sequences());
        long targets = feed.fill(data.training(), batch);
        // Schedule and bias corrections count the steps that updated something.
        long applied = step - skipped;
        double rate = schedule.learningRate(applied);
        step++;
        double scale = scaler.scale();
        feed.scalars(
                rate,
                1 / (1 - Math.pow(options.adamBeta1(), (double) (applied + 1))),
                1 / Math.sqrt(1 - Math.pow(options.adamBeta2(), (double) (applied + 1))),
                (int) SplitMix.at(options.seed(), step),
                targets == 0 ? 0 : scale / targets,
                1 / scale);
        if (profile != null) {
            profile.before(step);
        }
        engine.execute(train);
        double loss = report.getAtIndex(ValueLayout.JAVA_FLOAT, 1) / scale;
        float norm = report.getAtIndex(ValueLayout.JAVA_FLOAT, 2);
        boolean overflow = !Double.isFinite(loss) || !Float.isFinite(norm);
        if (overflow) {
            // The update has changed nothing: see Kernels.adamw.
            if (scaler.exhausted()) {
                throw stopped(loss, norm);
            }
            skipped++;
        }
        scaler = scaler.after(overflow);
        cursor = batch.after();
        long tokens = (long) batch.size() * options.sequenceLength();
        double seconds = (System.nanoTime() - began) / 1e9;
        // Now and then, as it may take as long as a short step.
        if (memoryBytes == 0 || System.nanoTime() - lookedAtMemory > LOOK_NANOS) {
            lookAtMemory();
        }
        double epoch = cursor.epoch()
                + (double) cursor.nextSample() / (double) data.training().samplesPerEpoch();
        return new StepMetrics(
                step,
                loss,
                norm,
                rate,
                tokens,
                (double) tokens / seconds,
                seconds,
                epoch,
                memoryBytes,
                overflow,
                scale);
    }

    /// Says where the driver and its libraries take more than was counted on.
    private void checkMemory() {
        MemoryFit.ranks(devices).forEach((device, ranks) -> {
            long arenas = ranks.stream().mapToLong(engine::arenaBytes).sum();
            String excess = MemoryFit.excess(
                    arenas, device, devices.get(ranks.getFirst()).memory());
            if (excess != null) {
                listener.onMessage(excess);
            }
        });
    }

    private void lookAtMemory() {
        lookedAtMemory = System.nanoTime();
        for (Device device : devices) {
            memoryBytes = Math.max(memoryBytes, device.memory().used());
        }
    }

    private UserException stopped(double loss, float norm) {
        NonFinite found = engine.findNonFinite(train);
        String sample = "";
        if (found.token() >= 0 && found.microbatch() >= 0) {
            int sequence = feed.sequence(found.rank(), found.microbatch(), found.token());
            sample = ", in sequence " + sequence + " of the batch (sample " + (cursor.nextSample() + sequence)
                    + " of epoch " + cursor.epoch() + ")";
        }
        String scale = scaler.settings().equals(LossScaling.NONE)
                ? ""
                : " at the loss scale " + StepMetrics.plain(scaler.scale()) + ", which "
                        + (scaler.settings().dynamic() ? "is the smallest allowed" : "is static");
        return new UserException("Step " + step + " was stopped, since its loss is " + (float) loss
                + " and its gradient norm " + norm + scale + ": the first value that is not finite is in "
                + found.where() + sample + "; lower the learning rate or look at the data and weights.");
    }

    /// The mean loss over the target tokens of a data set.
    private double evaluate(Dataset dataset) {
        double sum = 0;
        long count = 0;
        BatchCursor at = BatchCursor.START;
        while (at.epoch() == 0) {
            BatchCursor.Batch batch = at.next(dataset, feed.sequences());
            long targets = feed.fill(dataset, batch);
            feed.scalars(0, 0, 0, 0, targets == 0 ? 0 : 1.0 / targets, 1);
            engine.execute(evaluate);
            sum += (double) report.getAtIndex(ValueLayout.JAVA_FLOAT, 1) * (double) targets;
            count += targets;
            at = batch.after();
        }
        return sum / count;
    }

    private void interrupted() {
        if (profile != null) {
            profile.interrupt(step);
        }
    }

    private boolean savesNow(boolean epochEnded) {
        return switch (options.saveStrategy()) {
            case NO -> false;
            case STEPS -> step % options.saveSteps() == 0;
            case EPOCH -> epochEnded;
        };
    }

    private void save() {
        engine.drain();
        Path checkpoint = files.checkpoint(state, trainerState());
        savedStep = step;
        listener.onSave(checkpoint);
    }

    private TrainerState trainerState() {
        return new TrainerState(step, skipped, scaler, cursor, options.seed(), options.sequenceLength(), data.key());
    }

    @Override
    public void close() {
        while (!opened.isEmpty()) {
            opened.pop().run();
        }
    }
}
