package troika.train.data;

/// What a cache folder's meta.json says: the other files' contents, exactly.
///
/// @param key SHA-256 of the format's version, the tokenizer and the sources
/// @param tokenBytes the bytes of a token: 2 or 4
/// @param maxToken the largest token id present
/// @param tokensChecksum CRC-32C of tokens.bin; likewise of documents.bin (offsets) and names.bin
record TokenCacheMeta(
        int version,
        String key,
        String tokenizer,
        int vocabularySize,
        int eos,
        int tokenBytes,
        int maxToken,
        long tokens,
        int documents,
        long tokensChecksum,
        long documentsChecksum,
        long namesChecksum) {}
