package troika.train.config;

import java.util.Collection;
import java.util.Comparator;

/// Finds the known word that a misspelt one most likely means.
final class Nearest {
    private Nearest() {}

    /// The known word with the smallest edit distance; among equals the alphabetically first. `known` is
    /// not empty.
    static String of(String word, Collection<String> known) {
        return known.stream()
                .sorted()
                .min(Comparator.comparingInt((String candidate) -> distance(word, candidate)))
                .orElseThrow();
    }

    /// Levenshtein's distance over UTF-16 units. A long word is cut: no key is longer than that.
    static int distance(String left, String right) {
        String a = left.substring(0, Math.min(left.length(), 100));
        String b = right.substring(0, Math.min(right.length(), 100));
        int[] row = new int[b.length() + 1];
        for (int j = 0; j <= b.length(); j++) {
            row[j] = j;
        }
        for (int i = 1; i <= a.length(); i++) {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.length(); j++) {
                int substituted = diagonal + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.min(substituted, 1 + Math.min(row[j - 1], row[j]));
            }
        }
        return row[b.length()];
    }
}
