package troika.train.data;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayDeque;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import troika.model.Tokenizer;
import troika.tensor.UserException;

/// Tokenises documents in parallel and writes their ids in order. The thread that reads documents also writes: it waits
/// for the oldest result once enough text is under way, which bounds the heap.
final class TokenCacheWriter implements Closeable {
    private final Path folder;
    private final Tokenizer tokenizer;
    private final int eos;
    private final int tokenBytes;
    private final int vocabularySize;
    private final TokenFile tokens;
    private final TokenFile documents;
    private final TokenFile names;
    private final ExecutorService pool;
    private final ArrayDeque<Pending> pending = new ArrayDeque<>();
    private final long maxPendingChars;
    private final int maxPending;
    private long pendingChars;
    private long written;
    private long documentStart;
    private int documentCount;
    private int maxToken;

    private record Pending(Document document, Future<int[]> ids) {}

    TokenCacheWriter(Path folder, Tokenizer tokenizer, int eos) throws IOException {
        this.folder = folder;
        this.tokenizer = tokenizer;
        this.eos = eos;
        vocabularySize = tokenizer.vocabularySize();
        tokenBytes = TokenCache.tokenBytes(vocabularySize);
        maxToken = eos;
        tokens = new TokenFile(folder.resolve(TokenCache.TOKENS));
        documents = new TokenFile(folder.resolve(TokenCache.DOCUMENTS));
        names = new TokenFile(folder.resolve(TokenCache.NAMES));
        documents.append(0, Long.BYTES);
        int threads = Runtime.getRuntime().availableProcessors();
        pool = Executors.newFixedThreadPool(
                threads, Thread.ofPlatform().daemon().name("tokenizer-", 0).factory());
        maxPending = 64 * threads;
        // A char becomes up to 3 byte tokens of 4 bytes while it is held itself.
        maxPendingChars =
                Math.min((long) threads * TextReader.PART, Runtime.getRuntime().maxMemory() / 128);
    }

    /// Takes the next part of a document.
    void add(Document document) {
        try {
            while (!pending.isEmpty()
                    && (pending.size() >= maxPending
                            || pendingChars + document.text().length() > maxPendingChars)) {
                writeOldest();
            }
            pendingChars += document.text().length();
            pending.add(new Pending(document, pool.submit(() -> tokenizer.encode(document.text()))));
        } catch (IOException e) {
            throw TokenCache.unwritable(folder, e);
        }
    }

    private void writeOldest() throws IOException {
        Pending oldest = pending.remove();
        Document document = oldest.document;
        pendingChars -= document.text().length();
        for (int id : result(oldest)) {
            if (id < 0 || id >= vocabularySize) {
                throw new UserException(
                        "The tokenizer gave the id %d for text of %s, outside its vocabulary of %d: its files are damaged or do not belong together."
                                .formatted(id, Text.shown(document.name()), vocabularySize));
            }
            maxToken = Math.max(maxToken, id);
            tokens.append(id, tokenBytes);
            written++;
        }
        if (document.last() && written > documentStart) {
            tokens.append(eos, tokenBytes);
            written++;
            documentStart = written;
            documents.append(written, Long.BYTES);
            names.append(nameHash(document.name()), Long.BYTES);
            documentCount = Math.incrementExact(documentCount);
        }
    }

    private static int[] result(Pending pending) {
        try {
            return pending.ids.get();
        } catch (ExecutionException e) {
            switch (e.getCause()) {
                case RuntimeException cause -> throw cause;
                case Error cause -> throw cause;
                case null, default -> throw new IllegalStateException(e);
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new UserException("Tokenising the data was interrupted: start it again.", e);
        }
    }

    /// Writes what is under way and describes the files.
    TokenCacheMeta finish(String key) throws IOException {
        while (!pending.isEmpty()) {
            writeOldest();
        }
        return new TokenCacheMeta(
                TokenCache.VERSION,
                key,
                tokenizer.fingerprint(),
                vocabularySize,
                eos,
                tokenBytes,
                maxToken,
                written,
                documentCount,
                tokens.finish(),
                documents.finish(),
                names.finish());
    }

    @Override
    public void close() throws IOException {
        pool.shutdownNow();
        tokens.close();
        documents.close();
        names.close();
    }

    private static long nameHash(String name) {
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(name.getBytes(StandardCharsets.UTF_8));
            return ByteBuffer.wrap(digest).getLong();
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e);
        }
    }
}
