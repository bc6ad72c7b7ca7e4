package troika.app;

import static com.tngtech.archunit.core.domain.JavaClass.Predicates.assignableTo;
import static com.tngtech.archunit.core.domain.JavaClass.Predicates.resideInAnyPackage;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.classes;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;
import static com.tngtech.archunit.library.dependencies.SlicesRuleDefinition.slices;

import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import troika.comm.Communicator;
import troika.tensor.Kernels;

/// Who may use whom: modules as ARCHITECTURE.md has them, and devices through the engine alone.
class ArchitectureTest {
    private static final JavaClasses CLASSES = new ClassFileImporter()
            .withImportOption(ImportOption.Predefined.DO_NOT_INCLUDE_TESTS)
            .importPackages("troika");

    /// What each module's classes may use, with what those may use.
    private static final Map<String, List<String>> MODULES = Map.of(
            "ffi", List.of(),
            "tensor", List.of("ffi"),
            "comm", List.of("ffi", "tensor"),
            "cpu", List.of("ffi", "tensor"),
            "cuda", List.of("ffi", "tensor", "comm"),
            "graph", List.of("ffi", "tensor"),
            "model", List.of("ffi", "tensor", "graph"),
            "plan", List.of("ffi", "tensor", "graph", "model"),
            "train", List.of("ffi", "tensor", "graph", "model", "plan", "comm"),
            "app", List.of("ffi", "tensor", "graph", "model", "plan", "comm", "train"));

    static List<String> modules() {
        return MODULES.keySet().stream().sorted().toList();
    }

    @ParameterizedTest
    @MethodSource("modules")
    void aModuleUsesThoseBelowIt(String module) {
        List<String> forbidden = new ArrayList<>();
        for (String other : modules()) {
            if (!other.equals(module)
                    && !MODULES.getOrDefault(module, List.of()).contains(other)) {
                forbidden.add("troika." + other + "..");
            }
        }
        noClasses()
                .that()
                .resideInAPackage("troika." + module + "..")
                .should()
                .dependOnClassesThat()
                .resideInAnyPackage(forbidden.toArray(String[]::new))
                .check(CLASSES);
    }

    @Test
    void everyClassBelongsToAModule() {
        classes()
                .should()
                .resideInAnyPackage(modules().stream()
                        .map(module -> "troika." + module + "..")
                        .toArray(String[]::new))
                .check(CLASSES);
    }

    @Test
    void onlyTheEngineUsesKernelsAndCommunicators() {
        noClasses()
                .that()
                .resideOutsideOfPackages(
                        "troika.train.engine", "troika.tensor..", "troika.comm..", "troika.cpu..", "troika.cuda..")
                .should()
                .dependOnClassesThat(assignableTo(Kernels.class)
                        .or(assignableTo(Communicator.class))
                        .or(resideInAnyPackage("troika.comm..")))
                .check(CLASSES);
    }

    @Test
    void packagesDependInOneDirection() {
        slices().matching("troika.(**)").should().beFreeOfCycles().check(CLASSES);
    }

    /// The rules are about something: the packages that they name have classes, and the engine uses what others may
    /// not.
    @Test
    void theEngineUsesThem() {
        classes()
                .that()
                .haveFullyQualifiedName("troika.train.engine.Dispatch")
                .should()
                .dependOnClassesThat(assignableTo(Kernels.class))
                .andShould()
                .dependOnClassesThat(assignableTo(Communicator.class))
                .check(CLASSES);
    }
}
