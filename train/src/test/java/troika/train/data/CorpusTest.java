package troika.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import troika.tensor.UserException;

class CorpusTest {
    @TempDir
    Path dir;

    static List<Document> documents(Object... arguments) {
        List<Document> documents = new ArrayList<>();
        Corpus.open(List.of(arguments).stream().map(Object::toString).toList()).forEach(documents::add);
        return documents;
    }

    static List<String> names(Object... arguments) {
        return documents(arguments).stream().map(Document::name).toList();
    }

    private Path write(String name, String text) throws IOException {
        return write(name, text.getBytes(StandardCharsets.UTF_8));
    }

    private Path write(String name, byte[] bytes) throws IOException {
        Path file = dir.resolve(name);
        Files.createDirectories(file.resolveSibling("."));
        return Files.write(file, bytes);
    }

    static Path resource(String name) throws URISyntaxException {
        return Path.of(java.util.Objects.requireNonNull(CorpusTest.class.getResource(name))
                .toURI());
    }

    static void refused(String part, Object... arguments) {
        assertThatThrownBy(() -> documents(arguments))
                .isInstanceOf(UserException.class)
                .hasMessageContaining(part)
                .message()
                .endsWith(".")
                .doesNotContain("\n")
                .doesNotContain("null:");
    }

    @Test
    void textFileIsOneDocumentAndMalformedUtf8IsReplaced() throws IOException {
        Path file = write("a.txt", new byte[] {(byte) 0xEF, (byte) 0xBB, (byte) 0xBF, 'a', (byte) 0xFF, 'b'});
        assertThat(documents(file)).containsExactly(new Document("a.txt", "a\uFFFDb", true));
    }

    @Test
    void longTextComesInPartsCutAtLines() throws IOException {
        String text = "a line of words 𝄞\n".repeat(150_000);
        for (List<Document> parts : List.of(
                documents(write("long.txt", text)),
                documents(write("long.jsonl", "{\"text\":\"" + text.replace("\n", "\\n") + "\"}")))) {
            assertThat(parts).hasSizeGreaterThan(2);
            assertThat(String.join("", parts.stream().map(Document::text).toList()))
                    .isEqualTo(text);
            assertThat(parts.subList(0, parts.size() - 1))
                    .allMatch(p -> !p.last() && p.text().endsWith("\n"));
            assertThat(parts.getLast().last()).isTrue();
        }
        String solid = "x" + "𝄞".repeat(TextReader.PART);
        List<Document> parts = documents(write("solid.txt", solid));
        assertThat(String.join("", parts.stream().map(Document::text).toList())).isEqualTo(solid);
    }

    @Test
    void jsonLines() throws IOException {
        Path file = write("a.jsonl", "{\"text\":\"one\"}\r\n\n{\"id\":1,\"text\":\"two\\nlines\"}");
        assertThat(documents(file))
                .containsExactly(new Document("a.jsonl:1", "one", true), new Document("a.jsonl:3", "two\nlines", true));
        refused("b.jsonl, line 2, is not valid JSON", write("b.jsonl", "{\"text\":\"x\"}\n{\"text\":\"y\"\n"));
        refused("c.jsonl, line 1, has no string \"text\"", write("c.jsonl", "{\"content\":\"x\"}"));
        refused("d.jsonl, line 1, has no string \"text\"", write("d.jsonl", "{\"text\":7}"));
        refused("e.jsonl, line 1, has no string \"text\"", write("e.jsonl", "[1]"));
        refused("f.jsonl, line 1, is not valid JSON", write("f.jsonl", "{\"text\":\"x\"} {}"));
        refused("g.jsonl, line 1, is not valid JSON", write("g.jsonl", "[".repeat(100_000)));
    }

    @Test
    void folderIsReadSortedWithoutHiddenBinaryAndHugeFiles() throws IOException {
        write("d/b.py", "b");
        write("d/a/z.java", "z");
        write("d/a.txt", "a");
        write("d/README", "r");
        write("d/c.jsonl", "{\"text\":\"c\"}");
        write("d/.git/x.txt", "hidden");
        write("d/.y.txt", "hidden");
        write("d/image.png", "not text by name");
        write("d/binary.c", new byte[] {'a', 0, 'b'});
        write("d/huge.js", new byte[(8 << 20) + 1]);
        Files.createSymbolicLink(dir.resolve("d/loop"), dir.resolve("d"));
        assertThat(names(dir.resolve("d"))).containsExactly("README", "a.txt", "a/z.java", "b.py", "c.jsonl:1");
    }

    @Test
    void patterns() throws IOException {
        write("g/A.java", "a");
        write("g/x/B.java", "b");
        write("g/x/y/C.java", "c");
        write("g/x/c.py", "c");
        assertThat(names(dir + "/g/**/*.java")).containsExactly("A.java", "x/B.java", "x/y/C.java");
        assertThat(names(dir + "/g/*.java")).containsExactly("A.java");
        assertThat(names(dir + "/g/*/*.{java,py}")).containsExactly("x/B.java", "x/c.py");
        refused("No file matches the pattern", dir + "/g/*.rs");
        refused("malformed", dir + "/g/[");
        refused("does not exist", dir + "/nowhere/*.txt");
    }

    @Test
    void whatIsMissingIsSaid() throws IOException {
        refused("does not exist", dir.resolve("missing.txt"));
        refused("holds no text", Files.createDirectory(dir.resolve("empty")));
        refused("There is no text in", write("empty.txt", ""));
        refused("is not text in UTF-8", write("binary.bin", new byte[100]));
        refused("empty path", " ");
        refused("neither a file nor a folder", "/dev/null");
        assertThatThrownBy(() -> Corpus.open(List.of())).isInstanceOf(UserException.class);
    }

    @Test
    void jdkSources() {
        assertThatThrownBy(() -> SourceFinder.find("jdk", List.of(dir)))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("are not installed");
    }

    @Test
    void jdkModules() throws IOException {
        Files.createDirectories(dir.resolve("lib"));
        zip(dir.resolve("lib/src.zip"), "java.xml/X.java", "x", "java.base/B.java", "b", "java.base/A.java", "a");
        List<String> names = new ArrayList<>();
        for (String spec : List.of("jdk", "jdk:all", "jdk:java.xml")) {
            SourceFinder.find(spec, List.of(dir)).getFirst().read(d -> names.add(d.name()));
            names.add("-");
        }
        assertThat(names)
                .containsExactly(
                        "jdk!/java.base/A.java",
                        "jdk!/java.base/B.java",
                        "-",
                        "jdk!/java.base/A.java",
                        "jdk!/java.base/B.java",
                        "jdk!/java.xml/X.java",
                        "-",
                        "jdk!/java.xml/X.java",
                        "-");
        assertThatThrownBy(() -> SourceFinder.find("jdk:java.bas", List.of(dir)))
                .isInstanceOf(UserException.class)
                .hasMessageContaining("\"java.bas\"");
    }

    private static Path zip(Path file, String... namesAndTexts) throws IOException {
        try (var zip = new ZipOutputStream(Files.newOutputStream(file))) {
            for (int i = 0; i < namesAndTexts.length; i += 2) {
                zip.putNextEntry(new ZipEntry(namesAndTexts[i]));
                zip.write(namesAndTexts[i + 1].getBytes(StandardCharsets.UTF_8));
            }
        }
        return file;
    }

    @Test
    void archives() throws IOException {
        Path file = zip(
                dir.resolve("a.zip"),
                "b/B.java",
                "b",
                "../../etc/evil.txt",
                "e",
                "a.jsonl",
                "{\"text\":\"j\"}",
                "x.class",
                "c",
                ".hidden/x.txt",
                "h",
                "bin.txt",
                "a\0b");
        assertThat(names(file)).containsExactly("a.zip!/a.jsonl:1", "a.zip!/b/B.java");
        assertThat(Files.exists(dir.resolve("etc"))).isFalse();
        refused("b.zip, x.jsonl, line 1, is not valid JSON", zip(dir.resolve("b.zip"), "x.jsonl", "{"));
        refused("cannot be read as a zip file", write("c.zip", "this is not a zip file"));
        refused("There is no text", zip(dir.resolve("d.zip"), "x.class", "c"));
    }

    @Test
    void zipBombsAreRefused() throws IOException {
        Path one = dir.resolve("one.zip");
        Path many = dir.resolve("many.zip");
        byte[] block = "a".repeat(1 << 20).getBytes(StandardCharsets.UTF_8);
        try (var zip = new ZipOutputStream(Files.newOutputStream(one))) {
            zip.putNextEntry(new ZipEntry("big.txt"));
            for (int i = 0; i < 16; i++) {
                zip.write(block);
            }
        }
        try (var zip = new ZipOutputStream(Files.newOutputStream(many))) {
            for (int i = 0; i < 100; i++) {
                zip.putNextEntry(new ZipEntry(i + ".txt"));
                zip.write(block);
            }
        }
        refused("zip bomb", one);
        refused("zip bomb", many);
        // A directory that lies: the entry claims to inflate to 10 bytes.
        byte[] lying = Files.readAllBytes(one);
        int directory = new String(lying, StandardCharsets.ISO_8859_1).lastIndexOf("PK\1\2");
        lying[directory + 24] = 10;
        lying[directory + 25] = lying[directory + 26] = lying[directory + 27] = 0;
        assertThatThrownBy(() -> documents(write("lying.zip", lying))).isInstanceOf(UserException.class);
    }

    @Test
    void damagedArchivesNeverFailOtherwise() throws IOException {
        var bytes = new ByteArrayOutputStream();
        bytes.write(Files.readAllBytes(
                zip(dir.resolve("good.zip"), "a.txt", "some words ".repeat(50), "b/c.jsonl", "{\"text\":\"x\"}")));
        Random random = new Random(1);
        int refused = 0;
        for (int i = 0; i < 1500; i++) {
            byte[] damaged = bytes.toByteArray();
            for (int k = random.nextInt(3); k >= 0; k--) {
                damaged[random.nextInt(damaged.length)] = (byte) random.nextInt(256);
            }
            Path file = write("damaged.zip", damaged);
            try {
                documents(file);
            } catch (UserException e) {
                refused++;
            }
        }
        assertThat(refused).isGreaterThan(300);
    }
}
