package troika.graph;

import java.util.ArrayList;
import java.util.List;
import troika.tensor.Shape;

/// Which part of a weight of the whole model a rank holds: some rows, one range behind the other, of a range
/// of columns. A vector is a matrix of one column.
///
/// @param whole the weight's shape in the whole model
/// @param rows adjoining ranges are one
public record Portion(Shape whole, List<Range> rows, Range columns) {
    public Portion {
        rows = joined(rows);
    }

    private static List<Range> joined(List<Range> rows) {
        List<Range> joined = new ArrayList<>();
        for (Range range : rows) {
            if (!joined.isEmpty() && joined.getLast().end() == range.start()) {
                joined.add(new Range(joined.removeLast().start(), range.end()));
            } else {
                joined.add(range);
            }
        }
        return List.copyOf(joined);
    }

    /// All of it.
    public static Portion all(Shape whole) {
        long rows = whole.size(0);
        return new Portion(whole, List.of(new Range(0, rows)), new Range(0, rows == 0 ? 0 : whole.elements() / rows));
    }

    /// Some of a matrix's rows.
    public static Portion rows(Shape whole, Range... rows) {
        return new Portion(whole, List.of(rows), new Range(0, whole.size(1)));
    }

    /// Some of a matrix's columns.
    public static Portion columns(Shape whole, Range columns) {
        return new Portion(whole, List.of(new Range(0, whole.size(0))), columns);
    }

    /// The shape of what the rank holds.
    public Shape shape() {
        long height = rows.stream().mapToLong(Range::size).sum();
        return whole.rank() == 1 ? new Shape(height) : new Shape(height, columns.size());
    }
}
