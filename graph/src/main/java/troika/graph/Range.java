package troika.graph;

/// The numbers from `start` up to, not including, `end`.
public record Range(long start, long end) {
    public Range {
        if (start < 0 || end < start) {
            throw new IllegalArgumentException("no range from " + start + " to " + end);
        }
    }

    public long size() {
        return end - start;
    }

    /// As many numbers, each larger by `offset`.
    public Range plus(long offset) {
        return new Range(start + offset, end + offset);
    }
}
