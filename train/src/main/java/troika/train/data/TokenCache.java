package troika.train.data;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.time.Instant;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import java.util.stream.Stream;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.json.JsonMapper;
import troika.model.Tokenizer;
import troika.tensor.UserException;

/// A corpus as token ids, in memory-mapped files that later runs find again. The ids of a document are those of its
/// text followed by the tokenizer's end-of-sequence token; documents without text are left out.
///
/// A cache lives in the folder `<directory>/<key>`, the key being SHA-256 of the format's version, the tokenizer's
/// fingerprint, and the names and contents of all files; finding it reads the sources, so that no change is missed.
/// In it lie, little-endian, `tokens.bin` (uint16, or int32 above 65536 ids), `documents.bin` (int64: the offset of
/// each document's first token, then the number of tokens), `names.bin` (int64: a hash of each document's name) and
/// `meta.json`. The folder is written under another name and renamed once whole: any number of runs may do so at
/// once. One that does not match its meta.json is built anew. Safe for use by several threads.
public final class TokenCache implements AutoCloseable {
    static final int VERSION = 1;
    static final String TOKENS = "tokens.bin";
    static final String DOCUMENTS = "documents.bin";
    static final String NAMES = "names.bin";
    static final String META = "meta.json";
    private static final String BUILDING = ".building-";
    private static final JsonMapper MAPPER = new JsonMapper();
    private static final ValueLayout.OfShort U16 = ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfInt I32 = ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfLong I64 = ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

    private final TokenCacheMeta meta;
    private final MemorySegment tokens;
    private final MemorySegment documents;
    private final MemorySegment names;
    private final Arena arena;

    private TokenCache(
            TokenCacheMeta meta, MemorySegment tokens, MemorySegment documents, MemorySegment names, Arena arena) {
        this.meta = meta;
        this.tokens = tokens;
        this.documents = documents;
        this.names = names;
        this.arena = arena;
    }

    /// The folder that the system property `troika.cache` names, else `$XDG_CACHE_HOME/troika/tokens`, else
    /// `~/.cache/troika/tokens`.
    public static Path defaultDirectory() {
        String property = System.getProperty("troika.cache");
        if (property != null) {
            return Path.of(property);
        }
        String xdg = System.getenv("XDG_CACHE_HOME");
        Path cache = xdg != null && xdg.startsWith("/")
                ? Path.of(xdg)
                : Path.of(System.getProperty("user.home", "."), ".cache");
        return cache.resolve("troika").resolve("tokens");
    }

    /// Opens the cache of a corpus, tokenising on all cores if there is no whole one.
    ///
    /// @throws UserException where a source is unreadable or malformed, there is no text, the tokenizer has no
    ///     end-of-sequence token, or the directory cannot be written
    public static TokenCache open(Corpus corpus, Tokenizer tokenizer, Path directory) {
        int eos = tokenizer
                .eosId()
                .orElseThrow(
                        () -> new UserException(
                                "The tokenizer lacks an end-of-sequence token, which must end every document: name one as \"eos_token\" in its tokenizer_config.json."));
        String key = key(corpus, tokenizer);
        Path folder = directory.resolve(key);
        try {
            // A second round follows only where another run's folder was there first and then proved damaged.
            for (int attempt = 0; attempt < 3; attempt++) {
                Optional<TokenCache> cache = load(folder, key);
                if (cache.isPresent()) {
                    return cache.get();
                }
                build(corpus, tokenizer, eos, directory, key);
            }
        } catch (IOException | UncheckedIOException e) {
            throw unwritable(directory, e);
        }
        throw new UserException(
                "The token cache in %s is damaged again as soon as it is written: check the disk or choose another directory for it."
                        .formatted(folder));
    }

    static UserException unwritable(Path directory, Exception e) {
        return new UserException(
                "The token cache in %s cannot be written (%s): make room there or choose another directory for it."
                        .formatted(directory, Text.reason(e)),
                e);
    }

    static String key(Corpus corpus, Tokenizer tokenizer) {
        try {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            Source.frame(digest, "troika tokens " + VERSION);
            Source.frame(digest, tokenizer.fingerprint());
            corpus.digest(digest);
            return HexFormat.of().formatHex(digest.digest());
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e);
        }
    }

    static int tokenBytes(int vocabularySize) {
        return vocabularySize <= 1 << 16 ? Short.BYTES : Integer.BYTES;
    }

    /// The cache in a folder, if it is whole.
    @SuppressWarnings("MustBeClosedChecker") // the cache closes its arena
    private static Optional<TokenCache> load(Path folder, String key) {
        Arena arena = Arena.ofShared();
        boolean whole = false;
        try {
            TokenCacheMeta meta = MAPPER.readValue(Files.readAllBytes(folder.resolve(META)), TokenCacheMeta.class);
            MemorySegment tokens = TokenFile.map(folder.resolve(TOKENS), arena);
            MemorySegment documents = TokenFile.map(folder.resolve(DOCUMENTS), arena);
            MemorySegment names = TokenFile.map(folder.resolve(NAMES), arena);
            if (meta != null
                    && meta.version() == VERSION
                    && meta.key().equals(key)
                    && meta.documents() > 0
                    && meta.tokenBytes() == tokenBytes(meta.vocabularySize())
                    && tokens.byteSize() == meta.tokens() * meta.tokenBytes()
                    && documents.byteSize() == (meta.documents() + 1L) * Long.BYTES
                    && names.byteSize() == (long) meta.documents() * Long.BYTES
                    && TokenFile.checksum(tokens) == meta.tokensChecksum()
                    && TokenFile.checksum(documents) == meta.documentsChecksum()
                    && TokenFile.checksum(names) == meta.namesChecksum()) {
                TokenCache cache = new TokenCache(meta, tokens, documents, names, arena);
                whole = true;
                return Optional.of(cache);
            }
        } catch (IOException | JacksonException e) {
            return Optional.empty(); // absent or damaged: to be built
        } finally {
            if (!whole) {
                arena.close();
            }
        }
        return Optional.empty();
    }

    private static void build(Corpus corpus, Tokenizer tokenizer, int eos, Path directory, String key)
            throws IOException {
        Files.createDirectories(directory);
        removeAbandoned(directory);
        Path building = Files.createDirectory(directory.resolve(key + BUILDING + UUID.randomUUID()));
        try {
            try (TokenCacheWriter writer = new TokenCacheWriter(building, tokenizer, eos)) {
                corpus.forEach(writer::add);
                TokenCacheMeta meta = writer.finish(key);
                if (meta.documents() == 0) {
                    throw new UserException("The tokenizer finds no token in %s: give other data.".formatted(corpus));
                }
                try (FileChannel file = FileChannel.open(
                        building.resolve(META), StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
                    file.write(ByteBuffer.wrap(MAPPER.writeValueAsBytes(meta)));
                    file.force(true);
                }
            }
            Path folder = directory.resolve(key);
            if (Files.exists(folder) && !wholeAt(folder, key)) {
                // Aside first: a rename is atomic where a removal is not.
                Path aside = directory.resolve(key + BUILDING + UUID.randomUUID());
                Files.move(folder, aside, StandardCopyOption.ATOMIC_MOVE);
                remove(aside);
            }
            if (!Files.exists(folder)) {
                Files.move(building, folder, StandardCopyOption.ATOMIC_MOVE);
            }
        } catch (FileSystemException e) {
            if (!wholeAt(directory.resolve(key), key)) {
                throw e;
            } // else another run was first
        } finally {
            remove(building);
        }
    }

    private static boolean wholeAt(Path folder, String key) {
        Optional<TokenCache> cache = load(folder, key);
        cache.ifPresent(TokenCache::close);
        return cache.isPresent();
    }

    /// Folders of runs that were killed while they built a cache.
    private static void removeAbandoned(Path directory) throws IOException {
        Instant old = Instant.now().minus(Duration.ofDays(2));
        List<Path> folders;
        try (Stream<Path> all = Files.list(directory)) {
            folders = all.filter(p -> String.valueOf(p.getFileName()).contains(BUILDING))
                    .toList();
        }
        for (Path folder : folders) {
            Path tokens = folder.resolve(TOKENS); // grows as long as its run lives
            if (Files.exists(tokens)
                    && Files.getLastModifiedTime(tokens).toInstant().isBefore(old)) {
                remove(folder);
            }
        }
    }

    private static void remove(Path folder) throws IOException {
        if (Files.exists(folder)) {
            try (Stream<Path> files = Files.walk(folder)) {
                for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                    Files.deleteIfExists(file);
                }
            }
        }
    }

    /// Identifies the tokens: equal keys, equal tokens in equal order.
    public String key() {
        return meta.key();
    }

    /// The number of tokens, the end-of-sequence ones included.
    public long tokens() {
        return meta.tokens();
    }

    /// The number of documents.
    public int documents() {
        return meta.documents();
    }

    /// The token that ends every document.
    public int eos() {
        return meta.eos();
    }

    /// The vocabulary size of the tokenizer.
    public int vocabularySize() {
        return meta.vocabularySize();
    }

    /// Where a document's tokens start; `start(documents())` is [#tokens].
    long start(int document) {
        return documents.getAtIndex(I64, document);
    }

    long nameHash(int document) {
        return names.getAtIndex(I64, document);
    }

    int token(long index) {
        return meta.tokenBytes() == Short.BYTES
                ? tokens.getAtIndex(U16, index) & 0xFFFF
                : tokens.getAtIndex(I32, index);
    }

    /// All documents, in order.
    public DocumentSet all() {
        return DocumentSet.all(this);
    }

    /// Refuses a tokenizer that knows more ids than the model has embeddings.
    ///
    /// @throws UserException where the tokenizer's vocabulary, or a token present, exceeds the model's
    public void checkVocabulary(int modelVocabulary) {
        if (meta.vocabularySize() > modelVocabulary) {
            throw new UserException(
                    "The tokenizer has %d tokens, but the model's vocabulary (vocab_size in config.json) has %d: use the model's own tokenizer or raise vocab_size."
                            .formatted(meta.vocabularySize(), modelVocabulary));
        }
        if (meta.maxToken() >= modelVocabulary) {
            throw new UserException(
                    "The data hold the token %d, but the model's vocabulary (vocab_size in config.json) has %d: use the model's own tokenizer or raise vocab_size."
                            .formatted(meta.maxToken(), modelVocabulary));
        }
    }

    /// Unmaps the files: nothing that reads this cache may be in use any more.
    @Override
    public void close() {
        arena.close();
    }
}
