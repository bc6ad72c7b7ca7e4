package troika.train.data;

import dev.hardwood.HardwoodContext;
import dev.hardwood.InputFile;
import dev.hardwood.metadata.ColumnMetaData;
import dev.hardwood.metadata.PhysicalType;
import dev.hardwood.metadata.RowGroup;
import dev.hardwood.reader.ColumnReader;
import dev.hardwood.reader.ParquetFileReader;
import dev.hardwood.reader.Validity;
import dev.hardwood.schema.ColumnSchema;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.AccessDeniedException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Consumer;
import java.util.logging.Level;
import java.util.logging.Logger;
import troika.tensor.UserException;

/// A Parquet file, each of whose rows has a document in the column "text".
final class ParquetText {
    private static final String COLUMN = "text";
    /// Rows decoded at once: of long documents a few hundred are some MB.
    private static final int BATCH = 256;
    /// How long one batch may take before the file counts as damaged.
    static final Duration PATIENCE = Duration.ofMinutes(2);
    /// Held here, since loggers nobody holds forget their level: the library's notes are not for users.
    private static final Logger LIBRARY_LOGGER = Logger.getLogger("dev.hardwood");

    static {
        LIBRARY_LOGGER.setLevel(Level.WARNING);
    }

    private ParquetText() {}

    /// Reads all rows in order; documents are named `name:row`, counted from 1. A file that gives no rows within
    /// `patience` is damaged.
    static void read(Path file, String name, Duration patience, Consumer<Document> sink) throws IOException {
        AtomicBoolean stalled = new AtomicBoolean();
        try {
            read(file, name, patience, stalled, sink);
        } finally {
            if (stalled.get()) { // only now: uninterrupted, closing would wait as well
                var _ = Thread.interrupted();
            }
        }
    }

    private static void read(Path file, String name, Duration patience, AtomicBoolean stalled, Consumer<Document> sink)
            throws IOException {
        try (ScheduledExecutorService watch = Executors.newSingleThreadScheduledExecutor(
                        Thread.ofPlatform().daemon().factory());
                HardwoodContext context = HardwoodContext.create(1);
                ParquetFileReader reader = guarded(file, () -> ParquetFileReader.open(InputFile.of(file), context))) {
            guarded(file, () -> check(reader, file, Archives.total(file)));
            try (ColumnReader column = guarded(
                    file,
                    () -> reader.buildColumnReader(COLUMN).batchSize(BATCH).build())) {
                long row = 0;
                // The file's own figures may lie, and a dictionary repeats long values at no cost.
                Archives.Meter meter = Archives.total(file);
                while (guarded(file, () -> next(column, patience, watch, stalled))) {
                    long before = row;
                    for (String text : guarded(file, () -> texts(column, file, before))) {
                        if (meter.exceededBy(text.length())) {
                            throw bomb(file);
                        }
                        TextReader.split(text, name + ":" + ++row, sink);
                    }
                }
                long rows = reader.getFileMetaData().numRows();
                if (row != rows) { // also what an interrupted read looks like
                    throw new UserException(
                            "%s cannot be read as Parquet (it ends after %d of %d rows): it is damaged, get it again."
                                    .formatted(file, row, rows));
                }
            }
        }
    }

    /// The texts of a batch that follows `before` rows.
    private static List<String> texts(ColumnReader column, Path file, long before) {
        byte[] values = column.getBinaryValues();
        int[] offsets = column.getBinaryOffsets();
        Validity validity = column.getLeafValidity();
        List<String> texts = new ArrayList<>();
        for (int i = 0; i < column.getRecordCount(); i++) {
            if (validity.isNull(i)) {
                throw new UserException(
                        "%s, row %d, has no \"text\" (null): every row must have one.".formatted(file, before + i + 1));
            }
            texts.add(new String(values, offsets[i], offsets[i + 1] - offsets[i], StandardCharsets.UTF_8));
        }
        return texts;
    }

    private static boolean check(ParquetFileReader reader, Path file, Archives.Meter meter) {
        ColumnSchema text = reader.getFileSchema().getColumns().stream()
                .filter(column -> column.fieldPath().toString().equals(COLUMN))
                .findFirst()
                .orElseThrow(() -> new UserException(
                        "%s has no column \"text\": name the column that holds the documents so.".formatted(file)));
        if (text.type() != PhysicalType.BYTE_ARRAY || text.maxRepetitionLevel() > 0) {
            throw new UserException(
                    "The column \"text\" of %s holds %s, not strings: give files with one document a row."
                            .formatted(file, text.type()));
        }
        // The library would only notice in a thread of its own, and then wait for that thread.
        for (RowGroup group : reader.getFileMetaData().rowGroups()) {
            ColumnMetaData column = group.columns().get(text.columnIndex()).metaData();
            if (!ParquetCodecs.ready(column.codec())) {
                throw new UserException(
                        "%s is compressed by %s, which is not supported: write it again with SNAPPY, ZSTD, LZ4 or GZIP."
                                .formatted(file, column.codec()));
            }
            if (meter.exceededBy(Math.max(0, column.totalUncompressedSize()))) {
                throw bomb(file);
            }
        }
        return true;
    }

    private static <T> T guarded(Path file, Callable<T> library) throws IOException {
        try {
            return library.call();
        } catch (UserException | AccessDeniedException | NoSuchFileException e) {
            throw e;
        } catch (Exception | LinkageError e) { // damage shows as whatever failed first
            throw unreadable(file, e);
        }
    }

    // In a file whose page headers and row counts disagree the library waits for ever for rows: an alarm ends that.
    private static boolean next(
            ColumnReader column, Duration patience, ScheduledExecutorService watch, AtomicBoolean stalled) {
        Thread self = Thread.currentThread();
        Future<?> alarm = watch.schedule(
                () -> {
                    stalled.set(true);
                    self.interrupt();
                },
                patience.toMillis(),
                TimeUnit.MILLISECONDS);
        try {
            return column.nextBatch();
        } finally {
            alarm.cancel(false);
        }
    }

    private static UserException bomb(Path file) {
        return new UserException(
                "%s inflates to absurdly much: it looks like a bomb, leave it out or give its texts in another form."
                        .formatted(file));
    }

    private static UserException unreadable(Path file, Throwable e) {
        Throwable root = e;
        while (root.getCause() != null) {
            root = root.getCause();
        }
        String why = Text.shown(String.valueOf(root.getMessage()));
        return new UserException(
                "%s cannot be read as Parquet (%s): it is damaged or of another kind.".formatted(file, why), e);
    }
}
