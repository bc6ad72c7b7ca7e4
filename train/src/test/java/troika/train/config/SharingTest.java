package troika.train.config;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import troika.plan.Layout;
import troika.plan.Parallelism;
import troika.plan.PipelineSchedule;
import troika.tensor.DType;
import troika.tensor.UserException;

class SharingTest {
    @TempDir
    Path folder = Path.of("");

    private static TrainingOptionsBuilder run(int ranks) {
        return TrainingOptions.builder()
                .model("quickstart")
                .data(List.of("jdk"))
                .devices("cpu:" + ranks);
    }

    private TrainingOptionsBuilder with(int ranks, String json) throws IOException {
        return run(ranks).configFile(Files.writeString(folder.resolve("ds.json"), json));
    }

    private static void refused(TrainingOptionsBuilder builder, String... parts) {
        assertThatThrownBy(builder::build)
                .isInstanceOf(UserException.class)
                .message()
                .contains(parts)
                .endsWith(".")
                .doesNotContain("\n");
    }

    @Test
    void dataSharingTakesTheRest() {
        TrainingOptions options =
                run(12).tensorParallel(2).pipelineParallel(3).microBatchSize(4).build();
        assertThat(options.sharing().layout()).isEqualTo(Layout.grid(2, 2, 3));
        assertThat(options.ranks()).isEqualTo(12);
        assertThat(options.batch()).isEqualTo(new BatchSizes(8, 4, 1, 2));
        Sharing plain = run(3).build().sharing();
        assertThat(plain)
                .isEqualTo(new Sharing(
                        Layout.dataParallel(3),
                        1,
                        PipelineSchedule.ONE_F_ONE_B,
                        1,
                        false,
                        DType.F32,
                        true,
                        null,
                        1_000_000_000));
    }

    @Test
    void unequalStagesCutTheBatchByTheirLeastCommonMultiple() {
        TrainingOptions options = run(5).layout(Layout.parse("0-2:dp3 | 3,4:dp2"))
                .trainBatchSize(16)
                .gradientAccumulationSteps(2)
                .build();
        assertThat(options.batch()).isEqualTo(new BatchSizes(16, 2, 2, 6));
        assertThat(options.batch().microbatches()).isEqualTo(12);
        refused(
                run(5).layout(Layout.parse("0-2:dp3 | 3,4:dp2")).trainBatchSize(5),
                "fewer sequences than the 6 microbatches of a step (6 data-parallel ranks × 1 accumulation steps)");
    }

    @Test
    void aFileSaysWhatArgumentsDo() throws IOException {
        String json = """
                {"tensor_parallel": {"autotp_size": 2}, "pipeline": {"stages": 2}, "communication_data_type": "bfp16",
                 "zero_optimization": {"stage": 3, "overlap_comm": false, "stage3_prefetch_bucket_size": 100,
                 "stage3_max_live_parameters": 250, "stage3_param_persistence_threshold": 7, "reduce_bucket_size": 5e7,
                 "contiguous_gradients": false, "stage3_max_reuse_distance": 9}}
                """;
        Sharing sharing = with(4, json).build().sharing();
        assertThat(sharing)
                .isEqualTo(new Sharing(
                        Layout.grid(1, 2, 2), 3, PipelineSchedule.ONE_F_ONE_B, 1, false, DType.BF16, false, 100L, 250));
        assertThat(with(4, json)
                        .tensorParallel(2)
                        .pipelineParallel(2)
                        .zeroStage(3)
                        .overlap(false)
                        .communicationDtype(DType.BF16)
                        .build()
                        .sharing())
                .isEqualTo(sharing);
        refused(with(4, json).tensorParallel(4), "--tensor-parallel is 4, but tensor_parallel.autotp_size in", "is 2");
        refused(with(4, json).pipelineParallel(4), "--pipeline-parallel is 4, but pipeline.stages in");
        refused(with(4, json).overlap(true), "--overlap is on, but zero_optimization.overlap_comm in", "is off");
        refused(with(4, json).communicationDtype(DType.F16), "--communication-dtype is fp16", "is bf16");
        refused(with(4, json).layout(Layout.dataParallel(4)), "leave out tensor_parallel.autotp_size in");
    }

    @Test
    void blocksAreGatheredAheadAsFarAsTheBucketReaches() throws IOException {
        Sharing plain = run(2).zeroStage(3).build().sharing();
        assertThat(plain.prefetchBlocks(1)).isEqualTo(Parallelism.PREFETCH);
        // Of 10⁹ elements that may be live, two blocks of 400 million; a larger one is alone.
        assertThat(plain.prefetchBlocks(250_000_000)).isEqualTo(3);
        assertThat(plain.prefetchBlocks(400_000_000)).isEqualTo(1);
        assertThat(plain.prefetchBlocks(600_000_000)).isZero();
        assertThat(plain.prefetchBlocks(1L << 40)).isZero();
        String json = "{\"zero_optimization\": {\"stage\": 3, \"stage3_prefetch_bucket_size\": 5e7%s}}";
        Sharing bucket = with(2, json.formatted("")).build().sharing();
        assertThat(bucket.prefetchBlocks(200_000_000)).isEqualTo(1);
        assertThat(bucket.prefetchBlocks(10_000_000)).isEqualTo(5);
        // As many as may be live, the one in use included.
        Sharing live = with(2, json.formatted(", \"stage3_max_live_parameters\": 3e7"))
                .build()
                .sharing();
        assertThat(live.prefetchBlocks(10_000_000)).isEqualTo(2);
        assertThat(live.prefetchBlocks(20_000_000)).isZero();
        Sharing none = with(2, json.formatted("").replace("5e7", "0")).build().sharing();
        assertThat(none.prefetchBlocks(10)).isZero();
    }

    @Test
    void stagesGatherOnceAStepWhatMayBeLive() throws IOException {
        Sharing stages = run(4).pipelineParallel(2).zeroStage(3).build().sharing();
        assertThat(stages.parallelism(10, 1000, 2).gatherOnce()).isTrue();
        assertThat(stages.parallelism(10, 1000, 1).gatherOnce()).isFalse();
        assertThat(stages.parallelism(10, 2_000_000_002, 2).gatherOnce()).isFalse();
        assertThat(run(4).zeroStage(3)
                        .build()
                        .sharing()
                        .parallelism(10, 1000, 2)
                        .gatherOnce())
                .isFalse();
        assertThat(run(4).pipelineParallel(2)
                        .build()
                        .sharing()
                        .parallelism(10, 1000, 2)
                        .gatherOnce())
                .isFalse();
    }

    @Test
    void schedulesAndChunksBelongTogether() {
        Sharing interleaved =
                run(2).pipelineParallel(2).pipelineChunks(3).build().sharing();
        assertThat(interleaved.schedule()).isEqualTo(PipelineSchedule.INTERLEAVED);
        assertThat(interleaved.chunks()).isEqualTo(3);
        assertThat(run(2).pipelineParallel(2)
                        .pipelineSchedule(PipelineSchedule.INTERLEAVED)
                        .build()
                        .sharing()
                        .chunks())
                .isEqualTo(2);
        refused(
                run(2).pipelineParallel(2)
                        .pipelineSchedule(PipelineSchedule.ZERO_BUBBLE)
                        .pipelineChunks(2),
                "--pipeline-chunks 2 contradicts --pipeline-schedule zero-bubble");
        refused(
                run(2).pipelineParallel(2)
                        .pipelineSchedule(PipelineSchedule.INTERLEAVED)
                        .pipelineChunks(1),
                "--pipeline-chunks 1 contradicts --pipeline-schedule interleaved");
        refused(run(2).pipelineChunks(2), "--pipeline-chunks 2 needs a pipeline");
        refused(run(2).pipelineSchedule(PipelineSchedule.ZERO_BUBBLE), "--pipeline-schedule zero-bubble needs");
    }

    @ParameterizedTest
    @CsvSource(delimiter = ';', textBlock = """
            5; 2; 2; 5 ranks do not divide into replicas of 2 stages of 2 tensor-parallel ranks: use 4 or 8 ranks, or give stages their own ranks, as in --layout "0-2:tp3 | 3,4:tp2".
            3; 2; 1; 3 ranks do not divide into replicas of 2 tensor-parallel ranks: use 2 or 4 ranks, or give stages their own ranks, as in --layout "0,1:tp2 | 2".
            3; 1; 2; 3 ranks do not divide into replicas of 2 stages: use 2 or 4 ranks, or give stages their own ranks, as in --layout "0,1:dp2 | 2".
            1; 1; 2; 1 rank does not divide into replicas of 2 stages: use 2 ranks.
            2; 1; 5; 2 ranks do not divide into replicas of 5 stages: use 5 ranks.
            2; 3; 1; 2 ranks do not divide into replicas of 3 tensor-parallel ranks: use 3 ranks, or give stages their own ranks, as in --layout "0 | 1".
            """)
    void whatDoesNotDivideIsRefusedWithWhatDoes(int ranks, int tensor, int stages, String message) {
        assertThatThrownBy(run(ranks).tensorParallel(tensor).pipelineParallel(stages)::build)
                .isInstanceOf(UserException.class)
                .hasMessage(message);
    }

    @Test
    void layoutsSharesAndDevicesMustFit() {
        Layout layout = Layout.parse("0,1:dp2 | 2");
        refused(run(2).layout(layout), "has 3 ranks, and --devices cpu:2 makes 2: give --devices cpu:3");
        refused(run(3).layout(layout).tensorParallel(1), "leave out --tensor-parallel");
        refused(run(3).layout(layout).pipelineParallel(2), "leave out --pipeline-parallel");
        refused(run(3).shares(List.of(1.0, 2.0)), "2 shares for 3 ranks");
        refused(run(2).sequenceParallel(true), "--sequence-parallel on is for tensor-parallel ranks");
        refused(run(2).tensorParallel(0), "--tensor-parallel must be from 1 to 1024, and is 0");
        refused(run(2).pipelineParallel(1 << 20), "--pipeline-parallel must be from 1 to 1024");
        refused(run(2).communicationDtype(DType.I32), "--communication-dtype must be fp32, bf16 or fp16");
        assertThat(run(2).tensorParallel(2)
                        .sequenceParallel(true)
                        .build()
                        .sharing()
                        .sequenceParallel())
                .isTrue();
        assertThat(run(3).layout(layout)
                        .shares(List.of(1.0, 1.0, 0.6))
                        .build()
                        .sharing()
                        .layout())
                .isEqualTo(layout.withShares(List.of(1.0, 1.0, 0.6)));
    }

    @ParameterizedTest
    @CsvSource({"'1,1,0.6', 1 1 0.6", "3, 3", "'.5, 2.', .5 2"})
    void sharesAreRead(String text, String expected) {
        assertThat(Sharing.shares(text))
                .isEqualTo(Arrays.stream(expected.split(" ", -1))
                        .map(Double::valueOf)
                        .toList());
    }

    @ParameterizedTest
    @CsvSource({"''", "'1,,1'", "1e400", "x", "-1", "."})
    void otherSharesAreNot(String text) {
        assertThatThrownBy(() -> Sharing.shares(text))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("--shares must be a number for each rank");
    }

    @ParameterizedTest
    @CsvSource(delimiter = ';', textBlock = """
            dp3 zero3;                 0-2:dp3;             3; ONE_F_ONE_B; cpu:3
            tp2 pp2;                   0,1:tp2 | 2,3:tp2;   1; ONE_F_ONE_B; cpu:4
            pp3 zero-bubble;           0 | 1 | 2;           1; ZERO_BUBBLE; cpu:3
            0,1:dp2 | 2 zero2;         0,1:dp2 | 2;         2; ONE_F_ONE_B; cpu:3
            zero2 0,1:tp2|2;           0,1:tp2 | 2;         2; ONE_F_ONE_B; cpu:3
            PP2 chunks2;               0 | 1;               1; INTERLEAVED; cpu:2
            zero0;                     0;                   0; ONE_F_ONE_B; cpu:1
            """)
    void oneLineSaysALayout(String line, String layout, int zero, PipelineSchedule schedule, String devices) {
        TrainingOptions options = LayoutWords.apply(line, run(1)).build();
        assertThat(options.sharing().layout()).hasToString(layout);
        assertThat(options.sharing().zeroStage()).isEqualTo(zero);
        assertThat(options.sharing().schedule()).isEqualTo(schedule);
        assertThat(options.devices()).isEqualTo(devices);
    }

    @Test
    void aLineLeavesTheJobAsItWas() {
        TrainingOptionsBuilder job = run(1);
        TrainingOptions options = LayoutWords.apply(
                        "tp3 sequence-parallel recompute no-overlap acc4 shares=1,1,0.6", job)
                .build();
        assertThat(options.sharing().sequenceParallel()).isTrue();
        assertThat(options.sharing().overlap()).isFalse();
        assertThat(options.recompute()).isEqualTo(Recompute.LAYER);
        assertThat(options.batch().accumulation()).isEqualTo(4);
        assertThat(options.sharing().layout().shares()).containsExactly(1.0, 1.0, 0.6);
        assertThat(job.build()).isEqualTo(run(1).build());
    }

    @ParameterizedTest
    @CsvSource(delimiter = ';', textBlock = """
            dp2 dp3;                      dp2 and dp3
            tp2 pp2 zero1 zero2;          zero1 and zero2
            dp2 acc2 acc2;                acc2 and acc2
            pp2 1f1b zero-bubble;         1f1b and zero-bubble
            dp2 shares=1,2 shares=1,1;    shares=1,2 and shares=1,1
            pp2 interleaved chunks2 chunks3; chunks2 and chunks3
            """)
    void aLineSaysAThingOnce(String line, String both) {
        assertThatThrownBy(() -> LayoutWords.apply(line, run(1)))
                .isInstanceOf(UserException.class)
                .hasMessage("--layout \"" + line + "\" says both " + both + ": leave out one of them.");
    }

    @ParameterizedTest
    @CsvSource({"''", "' '", "dp", "tp2 0 | 1", "dp2 fast", "zero", "dp2 zero-2", "dp2 acc-4"})
    void otherLinesAreRefused(String line) {
        assertThatThrownBy(() -> LayoutWords.apply(line, run(1)))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("is not understood: write sizes (dp3, tp2 pp2)");
    }
}
