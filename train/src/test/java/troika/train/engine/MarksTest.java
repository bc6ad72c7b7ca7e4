package troika.train.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import troika.comm.InProcessGroup;
import troika.graph.Op;
import troika.plan.Call;
import troika.plan.Instruction;
import troika.plan.Lane;
import troika.plan.RankProgram;
import troika.plan.StepProgram;
import troika.plan.TensorSpec;
import troika.plan.TrainingPlan;
import troika.tensor.DType;
import troika.tensor.Device;
import troika.tensor.DeviceException;
import troika.tensor.Kernels;
import troika.tensor.Shape;
import troika.train.TinyRun;

class MarksTest {
    private static final int FIRST = 100;

    /// Forward, an upload between, and backward of block 0, then its update.
    private static RankProgram program() {
        List<TensorSpec> tensors = List.of(
                new TensorSpec(0, "x", TensorSpec.Role.ACTIVATIONS, false, 0, DType.BF16, new Shape(4, 8)),
                new TensorSpec(1, "y", TensorSpec.Role.ACTIVATIONS, false, 64, DType.F32, new Shape(3)));
        return new RankProgram(
                0,
                1024,
                0,
                tensors,
                List.of(),
                List.of(
                        instruction(0, Instruction.Kind.FORWARD, Lane.COMPUTE, 40),
                        instruction(1, Instruction.Kind.INPUT, Lane.UPLOAD, 1000),
                        instruction(2, Instruction.Kind.BACKWARD_INPUT, Lane.COMPUTE, 60),
                        instruction(3, Instruction.Kind.UPDATE, Lane.COMPUTE, 100),
                        instruction(4, Instruction.Kind.NORM, Lane.COMPUTE, 10)));
    }

    private static Instruction instruction(int id, Instruction.Kind kind, Lane lane, long bytes) {
        Call call = new Call(new Op.Copy(), List.of(0, -1), List.of(1));
        return new Instruction(id, kind, lane, 0, -1, 7, List.of(), List.of(), List.of(call), 0, bytes);
    }

    @Test
    void aMarkFollowsSoManyBytesOfALane() {
        RankProgram program = program();
        Marks marks = new Marks(program, List.of("layers.3"), FIRST, 100);
        assertThat(program.instructions().stream().filter(marks::follows).map(Instruction::id))
                .containsExactly(1, 2, 3);
    }

    @Test
    void whereIsBetweenTwoMarks() {
        Marks marks = new Marks(program(), List.of("layers.3"), FIRST, 100);
        assertThat(marks.where(Lane.COMPUTE, -1))
                .isEqualTo("between the beginning of FORWARD of block layers.3, microbatch 7 and the end of"
                        + " BACKWARD_INPUT of block layers.3, microbatch 7");
        assertThat(marks.where(Lane.COMPUTE, FIRST + 2))
                .isEqualTo("during UPDATE of block layers.3, microbatch 7 (Copy bf16 [4, 8] -> f32 [3])");
        // The end of the step before, and the beginning of this one.
        assertThat(marks.where(Lane.COMPUTE, FIRST + 3))
                .isEqualTo("between the beginning of NORM of block layers.3, microbatch 7 and the end of"
                        + " BACKWARD_INPUT of block layers.3, microbatch 7");
        // Another program's mark.
        assertThat(marks.where(Lane.COMPUTE, FIRST + 5)).isEqualTo(marks.where(Lane.COMPUTE, -1));
    }

    @Test
    void withoutMarksItIsTheWholeStep() {
        Marks marks = new Marks(program(), List.of("layers.3"), FIRST);
        assertThat(marks.where(Lane.COMPUTE, -1))
                .startsWith("between the beginning of FORWARD")
                .contains("end of NORM");
        assertThat(marks.where(Lane.DOWNLOAD, -1)).isEqualTo("outside the program");
    }

    /// A failing kernel is named with its instruction and shapes, whether it is captured or not.
    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void aFailingCallIsNamed(boolean capture) {
        TinyRun.Job job = TinyRun.job();
        List<Device> devices = TinyRun.devices(1);
        TrainingPlan plan = job.plan();
        List<StepProgram> programs = List.of(plan.train());
        assertThatThrownBy(() -> {
                    try (Engine engine = new Engine(
                            programs, List.of(failing(devices.getFirst())), InProcessGroup.create(1), capture)) {
                        engine.execute(0);
                    }
                })
                .isInstanceOf(DeviceException.class)
                .hasMessageMatching("broken, in FORWARD of block layers\\.0, microbatch 0, at SwiGlu .* -> .*")
                .satisfies(e -> {
                    // Where work is launched, its failure may be that of work before.
                    assertThat(String.valueOf(e.getMessage())
                                    .contains("; the kernels of rank 0 stopped between the beginning of "))
                            .isEqualTo(!capture);
                    assertThat(String.valueOf(e.getMessage())
                                    .endsWith("run again with JAVA_TOOL_OPTIONS=-Dtroika.cuda.check=true"))
                            .isEqualTo(!capture);
                });
        devices.forEach(Device::close);
    }

    private static Device failing(Device device) {
        Kernels kernels = (Kernels) Proxy.newProxyInstance(
                Kernels.class.getClassLoader(), new Class<?>[] {Kernels.class}, (_, method, arguments) -> {
                    if (method.getName().equals("swiglu")) {
                        throw new DeviceException("broken");
                    }
                    return invoke(device.kernels(), method, arguments);
                });
        return (Device) Proxy.newProxyInstance(
                Device.class.getClassLoader(),
                new Class<?>[] {Device.class},
                (_, method, arguments) ->
                        method.getName().equals("kernels") ? kernels : invoke(device, method, arguments));
    }

    private static Object invoke(Object target, java.lang.reflect.Method method, Object[] arguments) throws Throwable {
        try {
            return method.invoke(target, arguments);
        } catch (InvocationTargetException e) {
            throw e.getCause();
        }
    }
}
