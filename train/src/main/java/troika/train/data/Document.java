package troika.train.data;

/// A document's text, or a part of it.
///
/// @param name stable under moving the corpus: relative to the path the user gave, as `src/Main.java`, `shard.jsonl:12`
///     or `sources.zip!/Main.java`
/// @param text never cut inside a surrogate pair; a document of more than about a million chars comes as several
///     consecutive parts, cut at line ends where there are any
/// @param last whether this part ends the document
public record Document(String name, String text, boolean last) {}
