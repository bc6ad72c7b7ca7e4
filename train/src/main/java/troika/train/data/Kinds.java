package troika.train.data;

import java.util.Locale;
import java.util.Set;

/// What a file's name says about how to read it.
final class Kinds {
    /// Larger source files are generated ones: folders and archives leave them out (.txt and .jsonl have no limit).
    static final long MAX_SOURCE_BYTES = 8 << 20;

    enum Kind {
        TEXT,
        SOURCE,
        JSON_LINES,
        PARQUET,
        ARCHIVE,
        UNKNOWN
    }

    private static final Set<String> SOURCES = Set.of(
            "adoc",
            "asm",
            "awk",
            "bash",
            "bat",
            "bib",
            "c",
            "cc",
            "cfg",
            "cjs",
            "clj",
            "cljs",
            "cmake",
            "cmd",
            "conf",
            "cpp",
            "cs",
            "css",
            "cu",
            "cuh",
            "cxx",
            "dart",
            "el",
            "erl",
            "ex",
            "exs",
            "f",
            "f90",
            "fs",
            "glsl",
            "go",
            "gradle",
            "groovy",
            "h",
            "hh",
            "hpp",
            "hs",
            "htm",
            "html",
            "hxx",
            "ini",
            "java",
            "jl",
            "js",
            "jsx",
            "kt",
            "kts",
            "less",
            "lisp",
            "lua",
            "m",
            "md",
            "mdx",
            "mjs",
            "ml",
            "mli",
            "mm",
            "nim",
            "org",
            "pas",
            "php",
            "pl",
            "pm",
            "properties",
            "proto",
            "ps1",
            "py",
            "pyi",
            "r",
            "rb",
            "rs",
            "rst",
            "s",
            "sass",
            "scala",
            "scm",
            "scss",
            "sh",
            "sql",
            "svelte",
            "swift",
            "tcl",
            "tex",
            "toml",
            "ts",
            "tsx",
            "v",
            "vb",
            "vhd",
            "vim",
            "vue",
            "xhtml",
            "xml",
            "xsd",
            "xsl",
            "yaml",
            "yml",
            "zig",
            "zsh");
    private static final Set<String> NAMES =
            Set.of("readme", "license", "copying", "changelog", "authors", "notice", "makefile", "dockerfile");

    private Kinds() {}

    /// The kind of the file with this name or path.
    static Kind of(String path) {
        String name = path.substring(path.lastIndexOf('/') + 1).toLowerCase(Locale.ROOT);
        int dot = name.lastIndexOf('.');
        if (dot < 0) {
            return NAMES.contains(name) ? Kind.SOURCE : Kind.UNKNOWN;
        }
        String extension = name.substring(dot + 1);
        return switch (extension) {
            case "txt", "text" -> Kind.TEXT;
            case "jsonl", "ndjson" -> Kind.JSON_LINES;
            case "parquet" -> Kind.PARQUET;
            case "zip", "jar" -> Kind.ARCHIVE;
            default -> SOURCES.contains(extension) ? Kind.SOURCE : Kind.UNKNOWN;
        };
    }

    /// Whether a file of this name can be read from a stream, as archives' entries are.
    static boolean streamable(String path) {
        return switch (of(path)) {
            case TEXT, SOURCE, JSON_LINES -> true;
            case PARQUET, ARCHIVE, UNKNOWN -> false;
        };
    }

    /// Whether no part of a relative path is hidden (begins with a dot).
    static boolean visible(String path) {
        return !path.startsWith(".") && !path.contains("/.");
    }
}
