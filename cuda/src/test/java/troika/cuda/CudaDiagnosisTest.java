package troika.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import troika.tensor.Finding;
import troika.tensor.Presence;

class CudaDiagnosisTest {
    /// On any machine: where something is missing, the finding says what to do.
    @Test
    void whatIsMissingHasARemedy() {
        List<Finding> findings = new CudaDiagnosis().findings();
        assertThat(findings).isNotEmpty();
        assertThat(findings)
                .filteredOn(finding -> finding.value().equals(Finding.MISSING))
                .allSatisfy(finding -> assertThat(finding.note()).isNotEmpty());
        assertThat(findings.getFirst().name()).isEqualTo("NVIDIA driver");
    }

    @Test
    void presenceAgreesWithTheDriver() {
        Presence presence = new CudaDeviceProvider().presence();
        if (!CudaLibraries.hasDriver()) {
            assertThat(presence).isEqualTo(Presence.NONE);
        }
        assertThat(presence.devices() == 0 || presence.obstacle().isEmpty()).isTrue();
    }

    @Test
    void versionsHaveDots() {
        assertThat(CudaDiagnosis.dotted(91_900)).isEqualTo("9.19.0");
        assertThat(CudaDiagnosis.dotted(130_102)).isEqualTo("13.1.2");
    }

    @Test
    @Tag("gpu")
    void measuresTheCard() {
        Cards.open().close();
        List<Finding> findings = new CudaDiagnosis().findings();
        assertThat(findings).noneMatch(finding -> finding.value().equals("wrong data"));
        for (String name : List.of("host to card", "card to host", "both ways at once", "card's memory")) {
            assertThat(findings)
                    .filteredOn(finding ->
                            finding.section().equals("cuda:0") && finding.name().equals(name))
                    .singleElement()
                    .satisfies(finding -> {
                        assertThat(finding.value()).matches("[0-9]+\\.[0-9] GB/s");
                        assertThat(finding.note()).endsWith("data verified");
                    });
        }
        assertThat(new CudaDeviceProvider().presence().devices()).isPositive();
    }
}
