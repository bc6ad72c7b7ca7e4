package troika.train.data;

import dev.hardwood.HardwoodContext;
import dev.hardwood.InputFile;
import dev.hardwood.metadata.PhysicalType;
import dev.hardwood.reader.ColumnReader;
import dev.hardwood.reader.ParquetFileReader;
import dev.hardwood.reader.Validity;
import dev.hardwood.schema.ColumnSchema;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
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
        try (ScheduledExecutorService watch = Executors.newSingleThreadScheduledExecutor(
                        Thread.ofPlatform().daemon().factory());
                HardwoodContext context = HardwoodContext.create(1);
                ParquetFileReader reader = open(file, context)) {
            check(reader, file);
            try (ColumnReader column = column(reader, file)) {
                long row = 0;
                while (next(column, file, patience, watch)) {
                    byte[] values = column.getBinaryValues();
                    int[] offsets = column.getBinaryOffsets();
                    Validity validity = column.getLeafValidity();
                    for (int i = 0; i < column.getRecordCount(); i++) {
                        row++;
                        if (validity.isNull(i)) {
                            throw new UserException("%s, row %d, has no \"text\" (null): every row must have one."
                                    .formatted(file, row));
                        }
                        String text =
                                new String(values, offsets[i], offsets[i + 1] - offsets[i], StandardCharsets.UTF_8);
                        TextReader.split(text, name + ":" + row, sink);
                    }
                }
            }
        }
    }

    private static void check(ParquetFileReader reader, Path file) {
        for (ColumnSchema column : reader.getFileSchema().getColumns()) {
            if (column.fieldPath().toString().equals(COLUMN)) {
                if (column.type() != PhysicalType.BYTE_ARRAY || column.maxRepetitionLevel() > 0) {
                    throw new UserException(
                            "The column \"text\" of %s holds %s, not strings: give files with one document a row."
                                    .formatted(file, column.type()));
                }
                return;
            }
        }
        throw new UserException(
                "%s has no column \"text\": name the column that holds the documents so.".formatted(file));
    }

    // The library reports damage as whatever exception came up first, and a codec's missing library as one of several.
    private static ParquetFileReader open(Path file, HardwoodContext context) throws IOException {
        try {
            return ParquetFileReader.open(InputFile.of(file), context);
        } catch (RuntimeException | LinkageError e) {
            throw unreadable(file, e);
        }
    }

    private static ColumnReader column(ParquetFileReader reader, Path file) {
        try {
            return reader.buildColumnReader(COLUMN).batchSize(BATCH).build();
        } catch (RuntimeException | LinkageError e) {
            throw unreadable(file, e);
        }
    }

    // In a file whose page headers and row counts disagree the library waits for ever for rows: an alarm ends that.
    private static boolean next(ColumnReader column, Path file, Duration patience, ScheduledExecutorService watch) {
        Thread self = Thread.currentThread();
        Future<?> alarm = watch.schedule(self::interrupt, patience.toMillis(), TimeUnit.MILLISECONDS);
        try {
            return column.nextBatch();
        } catch (RuntimeException | LinkageError e) {
            if (alarm.isDone()) {
                var _ = Thread.interrupted();
            }
            throw unreadable(file, e);
        } finally {
            alarm.cancel(false);
        }
    }

    private static UserException unreadable(Path file, Throwable e) {
        StringBuilder why = new StringBuilder();
        for (Throwable t = e; t != null; t = t.getCause()) {
            if (t instanceof LinkageError
                    || t instanceof ClassNotFoundException
                    || t instanceof UnsupportedOperationException) {
                return new UserException(
                        "%s uses a compression whose library is not installed (%s): write it again with GZIP or no compression."
                                .formatted(file, Text.shown(String.valueOf(t.getMessage()))),
                        e);
            }
            why.setLength(0);
            why.append(t.getMessage());
        }
        return new UserException(
                "%s cannot be read as Parquet (%s): it is damaged or of another kind."
                        .formatted(file, Text.shown(why.toString())),
                e);
    }
}
